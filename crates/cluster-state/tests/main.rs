//! The replicated state: what its commands do, and what must hold whatever comes. One module for each part of it.

mod announcements;
mod backup;
mod common;
mod connections;
mod cost;
mod golden;
mod hand_over;
mod histories;
mod meta;
mod origins;
mod queues;
mod retained;
mod shares;
