//! Several nodes as one broker, in good and in bad weather. One module for each kind of it.

mod backup;
mod blackout;
mod forming;
mod full_disk;
mod joining;
mod killed;
mod leave;
mod leaving;
mod metrics;
mod moved;
mod partition;
mod paused;
mod recover;
mod retained;
mod rolling;
mod routing;
mod rules;
mod scale_in;
mod shared;
mod standing_still;
mod strangers;
mod takeover;
mod wills;
mod wiped;
