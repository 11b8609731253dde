//! Stories of a whole log on a real disk: append, read, crash, recover, truncate, fill up.

mod appending;
mod damage;
mod model;
mod reading;
mod recovering;
mod removing;
