//! Which faults, on which nodes, when, for how long: pure, and the same for the same seed.

use super::kind::Kind;
use crate::chance::Chance;
use crate::cluster::layout::NodeId;
use crate::cluster::network::{Cuts, one_way, ring, split};
use crate::workload::topics::REPLICAS;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, later started again. So are the following, unless they say otherwise.
    Kill(NodeId),
    /// SIGTERM.
    Term(NodeId),
    /// SIGSTOP, later SIGCONT.
    Pause(NodeId),
    /// Links cut by the named kind, later restored.
    Cut(Kind, Cuts),
    KillAll,
    /// No room on the disk, later freed.
    DiskFull(NodeId),
    /// Killed, the ends of some logs cut off.
    Truncate(NodeId),
    /// Killed, a bit flipped near the ends of some logs.
    Flip(NodeId),
    /// Killed, the data folder emptied.
    Wipe(NodeId),
    /// Its disk answers EIO until the node has ended by itself; started again, or replaced as its message tells.
    DiskError(NodeId, Calls),
    /// Killed, what was not fsync'ed undone.
    PowerCut(NodeId),
    PowerCutAll,
    /// `broker drain`, later undrain.
    Drain(NodeId),
    /// `topic reassign` of a partition (the how-manyth place) to the replicas in this order; later, if these are fewer than
    /// there were, to the missing ones, too.
    Reassign {
        place: usize,
        replicas: Vec<NodeId>,
    },
    /// `quorum remove`, later add.
    Quorum(NodeId),
    /// A member of the group stops polling, later goes on.
    HangMember,
}

/// Which calls fail with EIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Calls {
    Writes,
    Syncs,
    Both,
}

impl Calls {
    pub const ALL: [Calls; 3] = [Calls::Writes, Calls::Syncs, Calls::Both];

    pub fn name(self) -> &'static str {
        match self {
            Calls::Writes => "writes",
            Calls::Syncs => "syncs",
            Calls::Both => "writes and syncs",
        }
    }
}

impl Fault {
    pub fn kind(&self) -> Kind {
        match self {
            Fault::Kill(_) => Kind::Kill,
            Fault::Term(_) => Kind::Term,
            Fault::Pause(_) => Kind::Pause,
            Fault::Cut(kind, _) => *kind,
            Fault::KillAll => Kind::KillAll,
            Fault::DiskFull(_) => Kind::DiskFull,
            Fault::Truncate(_) => Kind::Truncate,
            Fault::Flip(_) => Kind::Flip,
            Fault::Wipe(_) => Kind::Wipe,
            Fault::DiskError(..) => Kind::DiskError,
            Fault::PowerCut(_) => Kind::PowerCut,
            Fault::PowerCutAll => Kind::PowerCutAll,
            Fault::Drain(_) => Kind::Drain,
            Fault::Reassign { .. } => Kind::Reassign,
            Fault::Quorum(_) => Kind::Quorum,
            Fault::HangMember => Kind::HangMember,
        }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.kind().name();
        match self {
            Fault::Kill(n) | Fault::Term(n) | Fault::Pause(n) | Fault::DiskFull(n) | Fault::Truncate(n) => {
                write!(f, "{name} {n}")
            }
            Fault::Flip(n) | Fault::Wipe(n) | Fault::PowerCut(n) | Fault::Drain(n) | Fault::Quorum(n) => {
                write!(f, "{name} {n}")
            }
            Fault::DiskError(n, calls) => write!(f, "{name} {n} {}", calls.name()),
            Fault::Cut(_, cuts) => {
                let links: Vec<String> = cuts.iter().map(|(a, b)| format!("{}→{}", end(*a), end(*b))).collect();
                write!(f, "{name} {}", links.join(" "))
            }
            Fault::KillAll | Fault::PowerCutAll | Fault::HangMember => f.write_str(name),
            Fault::Reassign { place, replicas } => write!(f, "{name} place {place} to {replicas:?}"),
        }
    }
}

fn end(end: crate::cluster::network::End) -> String {
    use crate::cluster::network::End;
    match end {
        End::Node(node) => node.to_string(),
        End::Clients => "clients".to_string(),
    }
}

/// A fault, when it begins within its round, and how long it is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub fault: Fault,
    pub begin_ms: u32,
    pub hold_ms: u32,
}

/// Faults that overlap. Invariant: at most one on each node, at most one of the network, and kinds that go alone do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub steps: Vec<Step>,
}

/// What can be done in this run.
#[derive(Clone, Debug)]
pub struct Means {
    pub kinds: Vec<Kind>,
    pub nodes: u16,
    /// The first so many nodes vote.
    pub voters: NodeId,
    pub places: usize,
    /// Nodes whose disks can be filled.
    pub small_disks: Vec<NodeId>,
}

/// How many faults begin together, out of ten rounds: six times one, three times two, once three.
fn how_many(chance: &mut Chance) -> usize {
    match chance.between(0, 10) {
        0..6 => 1,
        6..9 => 2,
        _ => 3,
    }
}

/// Faults on nodes are held so long, those of the network so long: session timeouts lie between.
const HOLD_MS: (u64, u64) = (200, 5_000);
const CUT_MS: (u64, u64) = (1_000, 8_000);
const STAGGER_MS: u64 = 2_500;
/// So long that the group must have gone on without the member: see [`crate::workload::group`].
const HUNG_MS: (u64, u64) = (20_000, 22_000);

fn hold_range(kind: Kind) -> (u64, u64) {
    match kind {
        Kind::HangMember => HUNG_MS,
        kind if kind.is_partition() => CUT_MS,
        _ => HOLD_MS,
    }
}

pub fn round(chance: &mut Chance, means: &Means) -> Round {
    let first = *chance.choose(&means.kinds);
    let mut kinds = vec![first];
    if !first.is_alone() {
        let others: Vec<Kind> = means.kinds.iter().copied().filter(|kind| !kind.is_alone()).collect();
        let more = how_many(chance) - 1;
        for _ in 0..more {
            kinds.push(*chance.choose(&others));
        }
    }
    let mut free: Vec<NodeId> = (1..=means.nodes).collect();
    let mut round = Round::default();
    for kind in kinds {
        let is_second_cut = kind.is_partition() && round.steps.iter().any(|step| step.fault.kind().is_partition());
        if !is_second_cut && let Some(fault) = fault(chance, kind, &mut free, means) {
            let (low, high) = hold_range(kind);
            let hold_ms = u32::try_from(chance.between(low, high)).expect("seconds");
            let begin_ms = match round.steps.is_empty() {
                true => 0,
                false => u32::try_from(chance.between(0, STAGGER_MS)).expect("seconds"),
            };
            round.steps.push(Step { fault, begin_ms, hold_ms });
        }
    }
    round.steps.sort_by_key(|step| step.begin_ms);
    round
}

/// A fault of the kind on nodes that are still free; `None` if there is none left.
fn fault(chance: &mut Chance, kind: Kind, free: &mut Vec<NodeId>, means: &Means) -> Option<Fault> {
    let nodes = means.nodes;
    let any = chance.between(1, u64::from(nodes) + 1) as NodeId;
    match kind {
        Kind::Isolate => {
            let with_clients = chance.one_in(2);
            return Some(Fault::Cut(kind, split(nodes, &[any], with_clients)));
        }
        Kind::Split => {
            let all: Vec<NodeId> = (1..=nodes).collect();
            let minority = chance.some(&all, usize::from(nodes - 1) / 2);
            return Some(Fault::Cut(kind, split(nodes, &minority, false)));
        }
        Kind::Ring => return Some(Fault::Cut(kind, ring(nodes, any))),
        Kind::OneWay => {
            let other = (any - 1 + chance.between(1, u64::from(nodes)) as NodeId) % nodes + 1;
            return Some(Fault::Cut(kind, one_way(any, other)));
        }
        Kind::KillAll => return Some(Fault::KillAll),
        Kind::PowerCutAll => return Some(Fault::PowerCutAll),
        Kind::HangMember => return Some(Fault::HangMember),
        Kind::Reassign => {
            let all: Vec<NodeId> = (1..=nodes).collect();
            let place = chance.between(0, means.places as u64) as usize;
            // Where each node has a replica of everything there is nowhere to move to: one is removed, and added again.
            let many = if usize::from(nodes) > REPLICAS { REPLICAS } else { REPLICAS - 1 };
            return Some(Fault::Reassign { place, replicas: chance.some(&all, many) });
        }
        _ => {}
    }
    let candidates: Vec<NodeId> = match kind {
        Kind::DiskFull => free.iter().copied().filter(|node| means.small_disks.contains(node)).collect(),
        Kind::Quorum => free.iter().copied().filter(|node| *node <= means.voters).collect(),
        _ => free.clone(),
    };
    if candidates.is_empty() {
        return None;
    }
    let node = *chance.choose(&candidates);
    free.retain(|other| *other != node);
    Some(match kind {
        Kind::Kill => Fault::Kill(node),
        Kind::Term => Fault::Term(node),
        Kind::Pause => Fault::Pause(node),
        Kind::DiskFull => Fault::DiskFull(node),
        Kind::Truncate => Fault::Truncate(node),
        Kind::Flip => Fault::Flip(node),
        Kind::Wipe => Fault::Wipe(node),
        Kind::DiskError => Fault::DiskError(node, *chance.choose(&Calls::ALL)),
        Kind::PowerCut => Fault::PowerCut(node),
        Kind::Drain => Fault::Drain(node),
        Kind::Quorum => Fault::Quorum(node),
        Kind::Isolate | Kind::Split | Kind::Ring | Kind::OneWay => unreachable!("returned above"),
        Kind::KillAll | Kind::PowerCutAll | Kind::Reassign | Kind::HangMember => unreachable!("returned above"),
    })
}

/// Every kind once, in the order of the kinds, one at a time, each held long enough to be noticed.
pub fn short(chance: &mut Chance, means: &Means) -> Vec<Round> {
    const HOLD_SHORT_MS: u32 = 5_000;
    let hung_ms = u32::try_from(HUNG_MS.0).expect("seconds");
    means
        .kinds
        .iter()
        .filter_map(|kind| {
            let mut free: Vec<NodeId> = (1..=means.nodes).collect();
            let fault = fault(chance, *kind, &mut free, means)?;
            let hold_ms = if *kind == Kind::HangMember { hung_ms } else { HOLD_SHORT_MS };
            Some(Round { steps: vec![Step { fault, begin_ms: 0, hold_ms }] })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn means() -> Means {
        Means { kinds: Kind::ALL.to_vec(), nodes: 3, voters: 3, places: 8, small_disks: vec![2] }
    }

    fn node_of(fault: &Fault) -> Option<NodeId> {
        match fault {
            Fault::Kill(n) | Fault::Term(n) | Fault::Pause(n) | Fault::DiskFull(n) | Fault::Truncate(n) => Some(*n),
            Fault::Flip(n) | Fault::Wipe(n) | Fault::PowerCut(n) | Fault::Drain(n) | Fault::Quorum(n) => Some(*n),
            Fault::DiskError(n, _) => Some(*n),
            Fault::Cut(..) | Fault::KillAll | Fault::PowerCutAll | Fault::Reassign { .. } | Fault::HangMember => None,
        }
    }

    #[test]
    fn a_seed_repeats_its_plan() {
        let plan = |seed| {
            let mut chance = Chance::new(seed);
            (0..20).map(|_| round(&mut chance, &means())).collect::<Vec<_>>()
        };
        assert_eq!(plan(5), plan(5));
        assert_ne!(plan(5), plan(6));
    }

    #[test]
    fn rounds_keep_their_invariants_and_use_every_kind() {
        let mut chance = Chance::new(1);
        let (mut seen, mut widest) = (BTreeSet::new(), 0);
        for _ in 0..3_000 {
            let round = round(&mut chance, &means());
            let nodes: Vec<_> = round.steps.iter().filter_map(|step| node_of(&step.fault)).collect();
            assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), nodes.len(), "{round:?}");
            assert!(nodes.iter().all(|node| (1..=3).contains(node)));
            let cuts = round.steps.iter().filter(|step| step.fault.kind().is_partition()).count();
            assert!(cuts <= 1, "{round:?}");
            let alone = round.steps.iter().any(|step| step.fault.kind().is_alone());
            assert!(!alone || round.steps.len() == 1, "{round:?}");
            seen.extend(round.steps.iter().map(|step| step.fault.kind()));
            widest = widest.max(round.steps.len());
        }
        assert_eq!((seen.len(), widest), (Kind::ALL.len(), 3));
    }

    #[test]
    fn a_short_run_has_every_kind_once_in_order() {
        let kinds: Vec<Kind> =
            short(&mut Chance::new(1), &means()).iter().map(|round| round.steps[0].fault.kind()).collect();
        assert_eq!(kinds, Kind::ALL);
    }

    #[test]
    fn disks_fail_in_every_way_one_at_a_time() {
        let mut chance = Chance::new(4);
        let rounds = (0..100).map(|_| round(&mut chance, &Means { kinds: vec![Kind::DiskError], ..means() }));
        let seen: BTreeSet<Calls> = rounds
            .map(|round| match round.steps.as_slice() {
                [Step { fault: Fault::DiskError(_, calls), .. }] => *calls,
                other => panic!("one of three disks at a time: {other:?}"),
            })
            .collect();
        assert_eq!(seen.len(), Calls::ALL.len());
    }

    #[test]
    fn a_move_always_takes_a_replica_from_somewhere() {
        let mut chance = Chance::new(6);
        for (nodes, many) in [(3, 2), (4, 3), (5, 3)] {
            let means = Means { kinds: vec![Kind::Reassign], nodes, ..means() };
            for step in round(&mut chance, &means).steps {
                let Fault::Reassign { place, replicas } = step.fault else { panic!("{step:?}") };
                assert!(place < means.places && replicas.len() == many, "{replicas:?} of {nodes}");
            }
        }
    }

    #[test]
    fn only_voters_lose_their_vote() {
        let means = Means { kinds: vec![Kind::Quorum], nodes: 4, voters: 3, ..means() };
        let mut chance = Chance::new(8);
        for step in (0..100).flat_map(|_| round(&mut chance, &means).steps) {
            assert!(matches!(step.fault, Fault::Quorum(1..=3)), "{step:?}");
        }
    }

    #[test]
    fn only_small_disks_are_filled_and_one_way_links_two() {
        let only = |kind| Means { kinds: vec![kind], ..means() };
        let mut chance = Chance::new(3);
        for _ in 0..100 {
            let filled = round(&mut chance, &only(Kind::DiskFull));
            assert!(filled.steps.iter().all(|step| step.fault == Fault::DiskFull(2)));
            let Fault::Cut(_, cuts) = &round(&mut chance, &only(Kind::OneWay)).steps[0].fault else { panic!("a cut") };
            assert!(cuts.iter().all(|(a, b)| a != b));
        }
    }
}
