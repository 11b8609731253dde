//! The kinds of faults, by the names the command line knows.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Kill,
    Term,
    Pause,
    Isolate,
    Split,
    Ring,
    OneWay,
    KillAll,
    DiskFull,
    Truncate,
    Flip,
    Wipe,
    DiskError,
    PowerCut,
    PowerCutAll,
    Drain,
    Reassign,
    Quorum,
    HangMember,
}

impl Kind {
    pub const ALL: [Kind; 19] = [
        Kind::Kill,
        Kind::Term,
        Kind::Pause,
        Kind::Isolate,
        Kind::Split,
        Kind::Ring,
        Kind::OneWay,
        Kind::KillAll,
        Kind::DiskFull,
        Kind::Truncate,
        Kind::Flip,
        Kind::Wipe,
        Kind::DiskError,
        Kind::PowerCut,
        Kind::PowerCutAll,
        Kind::Drain,
        Kind::Reassign,
        Kind::Quorum,
        Kind::HangMember,
    ];
    pub const PARTITIONS: [Kind; 4] = [Kind::Isolate, Kind::Split, Kind::Ring, Kind::OneWay];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::Term => "term",
            Kind::Pause => "pause",
            Kind::Isolate => "isolate",
            Kind::Split => "split",
            Kind::Ring => "ring",
            Kind::OneWay => "one-way",
            Kind::KillAll => "kill-all",
            Kind::DiskFull => "disk-full",
            Kind::Truncate => "truncate",
            Kind::Flip => "flip",
            Kind::Wipe => "wipe",
            Kind::DiskError => "disk-error",
            Kind::PowerCut => "power-cut",
            Kind::PowerCutAll => "power-cut-all",
            Kind::Drain => "drain",
            Kind::Reassign => "reassign",
            Kind::Quorum => "quorum",
            Kind::HangMember => "hang-member",
        }
    }

    pub fn is_partition(self) -> bool {
        Kind::PARTITIONS.contains(&self)
    }

    /// Takes what a node holds, so that another copy must be counted on: only while all replicas are in sync, and
    /// nothing else meanwhile.
    pub fn takes_data(self) -> bool {
        matches!(self, Kind::Truncate | Kind::Flip | Kind::Wipe | Kind::DiskError | Kind::PowerCut)
    }

    /// Needs the library that is preloaded into the nodes.
    pub fn needs_power_layer(self) -> bool {
        matches!(self, Kind::DiskError | Kind::PowerCut | Kind::PowerCutAll)
    }

    /// Goes with no other fault.
    pub fn is_alone(self) -> bool {
        self.takes_data() || matches!(self, Kind::KillAll | Kind::PowerCutAll | Kind::Quorum | Kind::HangMember)
    }
}
