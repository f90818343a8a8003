//! The operator's files: each judged by its own program, or run. One module for each subject.

mod around;
mod chart;
mod complaints;
mod image;
mod kept;
mod watching;
