//! What the cluster promises, one module per promise, each under faults that a seed decides.

mod acknowledged_messages;
