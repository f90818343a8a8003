//! Topic names, topic filters, share names and topic spaces, and the tree that matches a topic with a million filters.

mod error;
mod levels;
mod share;
mod space;
mod topic_filter;
mod topic_name;
mod tree;

pub use error::TopicError;
pub use share::{ShareName, SubscriptionFilter};
pub use space::{SPACE_NAME_BYTES_MAX, TopicSpace};
pub use topic_filter::TopicFilter;
pub use topic_name::TopicName;
pub use tree::FilterTree;
