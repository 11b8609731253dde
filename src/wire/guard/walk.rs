//! The walk itself. It allocates nothing and reads each byte of the lengths once.

use super::requests::REQUESTS;
use super::responses::RESPONSES;
use super::schema::{Api, Field, Kind};

/// How many array elements and tagged fields one request may hold in all. The largest decoded element is a few
/// hundred bytes, so this bounds what the decoder may allocate for one request to tens of MiB.
pub const REQUEST_ELEMENTS_MAX: usize = 200_000;

/// The same of a response, which a cluster we chose to ask sends: Metadata of 100,000 partitions must pass.
pub const RESPONSE_ELEMENTS_MAX: usize = 4_000_000;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuardError {
    #[error("API key {0} is not served")]
    UnknownKey(i16),
    #[error("{api} version {version} is not served, only {min} to {max}")]
    UnknownVersion { api: &'static str, version: i16, min: i16, max: i16 },
    #[error("{api} v{version}: {field} is cut off: {needed} bytes are needed, {there} are there")]
    Short { api: &'static str, version: i16, field: &'static str, needed: usize, there: usize },
    #[error("{api} v{version}: {field} has the length {length}")]
    BadLength { api: &'static str, version: i16, field: &'static str, length: i64 },
    #[error("{api} v{version}: {field} has a varint of more than 32 bits")]
    BadVarint { api: &'static str, version: i16, field: &'static str },
    #[error("{api} v{version}: tagged field {tag} has the wrong size")]
    BadTag { api: &'static str, version: i16, tag: u32 },
    #[error("{api} v{version}: more than {max} elements")]
    TooManyElements { api: &'static str, version: i16, max: usize },
}

/// The request table of `key`.
pub fn request_api(key: i16) -> Option<&'static Api> {
    REQUESTS.iter().find(|api| api.key == key)
}

/// The response table of `key`.
pub fn response_api(key: i16) -> Option<&'static Api> {
    RESPONSES.iter().find(|api| api.key == key)
}

/// Is `body` (what follows the request header) safe to decode?
pub fn check_request(key: i16, version: i16, body: &[u8]) -> Result<(), GuardError> {
    check(request_api(key).ok_or(GuardError::UnknownKey(key))?, version, body, REQUEST_ELEMENTS_MAX)
}

/// Is `body` (what follows the response header) safe to decode?
pub fn check_response(key: i16, version: i16, body: &[u8]) -> Result<(), GuardError> {
    check(response_api(key).ok_or(GuardError::UnknownKey(key))?, version, body, RESPONSE_ELEMENTS_MAX)
}

fn check(api: &'static Api, version: i16, body: &[u8], elements_max: usize) -> Result<(), GuardError> {
    if !api.knows(version) {
        return Err(GuardError::UnknownVersion { api: api.name, version, min: api.version_min, max: api.version_max });
    }
    let mut walk = Walk {
        api: api.name,
        version,
        flexible: api.is_flexible(version),
        rest: body,
        elements_max,
        elements_left: elements_max,
    };
    // What follows the last field is ignored, as Kafka does: librdkafka leaves three bytes behind a request for the
    // metadata of all topics.
    walk.fields(api.fields)
}

/// Invariant: `rest` is the part of the body that is not walked yet. Recursion is as deep as the table, no deeper.
struct Walk<'a> {
    api: &'static str,
    version: i16,
    flexible: bool,
    rest: &'a [u8],
    elements_max: usize,
    elements_left: usize,
}

impl<'a> Walk<'a> {
    fn fields(&mut self, fields: &'static [Field]) -> Result<(), GuardError> {
        for field in fields {
            if field.tag.is_none() && field.is_in(self.version) {
                self.value(field.name, field.kind)?;
            }
        }
        if self.flexible { self.tagged_fields(fields) } else { Ok(()) }
    }

    fn value(&mut self, name: &'static str, kind: Kind) -> Result<(), GuardError> {
        match kind {
            Kind::Fixed(bytes) => self.take(name, bytes).map(drop),
            Kind::Text => self.text(name),
            Kind::Blob => {
                let bytes = self.long_length(name)?;
                self.take(name, bytes).map(drop)
            }
            Kind::Fixeds(bytes) => {
                let count = self.count(name)?;
                // No overflow: the count is at most the number of bytes there.
                self.take(name, count * bytes).map(drop)
            }
            Kind::Texts => {
                for _ in 0..self.count(name)? {
                    self.text(name)?;
                }
                Ok(())
            }
            Kind::Structs(fields) => {
                for _ in 0..self.count(name)? {
                    self.fields(fields)?;
                }
                Ok(())
            }
            Kind::One(fields) => self.fields(fields),
            Kind::Optional(fields) => match self.take(name, 1)? {
                [1] => self.fields(fields),
                _ => Ok(()),
            },
        }
    }

    /// Known tags must fill their declared size exactly, since the decoder goes by the type and not by the size.
    fn tagged_fields(&mut self, fields: &'static [Field]) -> Result<(), GuardError> {
        let count = self.varint("tagged fields")?;
        for _ in 0..count {
            self.spend(1)?;
            let tag = self.varint("tag")?;
            let size = self.varint("tagged field")?;
            let known = fields.iter().find(|field| field.tag == Some(tag) && field.is_in(self.version));
            let value = self.take("tagged field", size as usize)?;
            if let Some(field) = known {
                let after = std::mem::replace(&mut self.rest, value);
                self.value(field.name, field.kind)?;
                if !self.rest.is_empty() {
                    return Err(self.bad_tag(tag));
                }
                self.rest = after;
            }
        }
        Ok(())
    }

    fn text(&mut self, name: &'static str) -> Result<(), GuardError> {
        let bytes = if self.flexible {
            self.long_length(name)?
        } else {
            let [a, b] = self.array(name)?;
            self.length(name, i64::from(i16::from_be_bytes([a, b])))?
        };
        self.take(name, bytes).map(drop)
    }

    /// The length of bytes or an array, or of a flexible string; null counts as none.
    fn long_length(&mut self, name: &'static str) -> Result<usize, GuardError> {
        if self.flexible {
            Ok((self.varint(name)? as usize).saturating_sub(1))
        } else {
            let bytes = self.array(name)?;
            self.length(name, i64::from(i32::from_be_bytes(bytes)))
        }
    }

    fn length(&self, name: &'static str, length: i64) -> Result<usize, GuardError> {
        match length {
            -1 => Ok(0),
            _ => usize::try_from(length).map_err(|_| GuardError::BadLength {
                api: self.api,
                version: self.version,
                field: name,
                length,
            }),
        }
    }

    /// An array's length. Every element takes a byte at least, so more elements than bytes are a lie.
    fn count(&mut self, name: &'static str) -> Result<usize, GuardError> {
        let count = self.long_length(name)?;
        if count > self.rest.len() {
            return Err(self.short(name, count));
        }
        self.spend(count)?;
        Ok(count)
    }

    fn spend(&mut self, elements: usize) -> Result<(), GuardError> {
        self.elements_left = self.elements_left.checked_sub(elements).ok_or(GuardError::TooManyElements {
            api: self.api,
            version: self.version,
            max: self.elements_max,
        })?;
        Ok(())
    }

    fn varint(&mut self, name: &'static str) -> Result<u32, GuardError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array(name)?;
            // The fifth byte has room for four bits.
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(GuardError::BadVarint { api: self.api, version: self.version, field: name })
    }

    fn array<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], GuardError> {
        match self.rest.split_first_chunk::<N>() {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(*bytes)
            }
            None => Err(self.short(name, N)),
        }
    }

    fn take(&mut self, name: &'static str, bytes: usize) -> Result<&'a [u8], GuardError> {
        match self.rest.split_at_checked(bytes) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.short(name, bytes)),
        }
    }

    fn short(&self, field: &'static str, needed: usize) -> GuardError {
        GuardError::Short { api: self.api, version: self.version, field, needed, there: self.rest.len() }
    }

    fn bad_tag(&self, tag: u32) -> GuardError {
        GuardError::BadTag { api: self.api, version: self.version, tag }
    }
}
