//! `apply`: a command turns one image into the next, deterministically.

use super::Image;
use crate::ids::RaftIndex;
use crate::metadata::command::{Answer, Command};
use crate::metadata::event::Event;

/// What applying one command gave.
pub struct Applied {
    pub answer: Answer,
    pub events: Vec<Event>,
}

impl Image {
    /// Applies the command committed at `index`. Reads nothing but `self` and the command.
    pub fn apply(&mut self, index: RaftIndex, command: &Command) -> Applied {
        let _ = (index, command);
        todo!()
    }
}
