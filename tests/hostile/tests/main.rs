//! What hostile clients can do, one after the other, and that nobody else notices. One module for each way in.

mod admin;
mod arriving;
mod load;
mod overload;
mod packets;
mod peers;
mod publishing;
mod storm;
mod subscribing;
mod websocket;
