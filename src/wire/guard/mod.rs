//! The guard before the decoder: walks a body's lengths against the bytes that are there.
//!
//! The decoder behind it reserves whatever an array length claims, which aborts the process on a hostile one.
//! So nothing is decoded before this walk has read it to its last byte.
//!
//! ```text
//! body ─▶ walk(table of the API, version) ─▶ Ok: every length fits, elements bounded
//!                                          └▶ Err(GuardError): nothing was allocated
//! ```

mod requests;
mod responses;
mod schema;
#[cfg(test)]
mod tests;
mod walk;

pub use schema::Api;
pub use walk::{
    GuardError, REQUEST_ELEMENTS_MAX, RESPONSE_ELEMENTS_MAX, check_request, check_response, request_api, response_api,
};
