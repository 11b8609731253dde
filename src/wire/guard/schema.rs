//! What a message is made of, as far as its lengths go: enough to walk it, not to understand it.

/// A message never had flexible versions.
pub const NEVER: i16 = i16::MAX;

/// One API in one direction.
#[derive(Debug)]
pub struct Api {
    pub key: i16,
    pub name: &'static str,
    /// The versions the decoder behind the guard knows.
    pub version_min: i16,
    pub version_max: i16,
    /// From this version on lengths are varints and every struct ends in tagged fields (KIP-482).
    pub flexible_from: i16,
    pub(super) fields: &'static [Field],
}

impl Api {
    pub(super) const fn new(
        key: i16,
        name: &'static str,
        version_min: i16,
        version_max: i16,
        flexible_from: i16,
        fields: &'static [Field],
    ) -> Self {
        Self { key, name, version_min, version_max, flexible_from, fields }
    }

    pub fn knows(&self, version: i16) -> bool {
        (self.version_min..=self.version_max).contains(&version)
    }

    pub fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_from
    }
}

/// A field and the versions that carry it. A tagged one stands among its struct's tagged fields, not in line.
#[derive(Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub since: i16,
    pub until: i16,
    pub tag: Option<u32>,
}

/// Null is let through everywhere: the decoder refuses it where it may not stand.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// A string: i16 or varint length.
    Text,
    /// Bytes or records: i32 or varint length.
    Blob,
    /// An array of fixed-size elements.
    Fixeds(usize),
    /// An array of strings.
    Texts,
    /// An array of structs.
    Structs(&'static [Field]),
    /// A struct in line.
    One(&'static [Field]),
    /// One byte that says whether a struct follows.
    Optional(&'static [Field]),
}

impl Field {
    const fn new(name: &'static str, kind: Kind) -> Self {
        Self { name, kind, since: 0, until: i16::MAX, tag: None }
    }

    pub const fn since(mut self, version: i16) -> Self {
        self.since = version;
        self
    }

    pub const fn until(mut self, version: i16) -> Self {
        self.until = version;
        self
    }

    pub const fn tag(mut self, tag: u32) -> Self {
        self.tag = Some(tag);
        self
    }

    pub fn is_in(&self, version: i16) -> bool {
        (self.since..=self.until).contains(&version)
    }
}

pub(super) const fn fixed(name: &'static str, bytes: usize) -> Field {
    Field::new(name, Kind::Fixed(bytes))
}

pub(super) const fn text(name: &'static str) -> Field {
    Field::new(name, Kind::Text)
}

pub(super) const fn blob(name: &'static str) -> Field {
    Field::new(name, Kind::Blob)
}

pub(super) const fn fixeds(name: &'static str, bytes: usize) -> Field {
    Field::new(name, Kind::Fixeds(bytes))
}

pub(super) const fn texts(name: &'static str) -> Field {
    Field::new(name, Kind::Texts)
}

pub(super) const fn structs(name: &'static str, fields: &'static [Field]) -> Field {
    Field::new(name, Kind::Structs(fields))
}

pub(super) const fn one(name: &'static str, fields: &'static [Field]) -> Field {
    Field::new(name, Kind::One(fields))
}

pub(super) const fn optional(name: &'static str, fields: &'static [Field]) -> Field {
    Field::new(name, Kind::Optional(fields))
}
