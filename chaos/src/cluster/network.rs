//! Which links are cut: pure sets of (from, to), made so by iptables in the nodes' namespaces.

use super::layout::{Layout, NodeId};
use super::namespaces;
use crate::shell::run;
use std::collections::BTreeSet;

/// The hub's address: that of the clients.
pub const HUB: &str = "10.77.0.254";

/// One end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Node(NodeId),
    Clients,
}

/// Packets from the first to the second are dropped.
pub type Cut = (End, End);

pub type Cuts = BTreeSet<Cut>;

fn both(cuts: &mut Cuts, a: End, b: End) {
    cuts.insert((a, b));
    cuts.insert((b, a));
}

/// `group` and the other nodes do not reach each other; with `clients`, they do not reach `group` either.
pub fn split(nodes: u16, group: &[NodeId], clients: bool) -> Cuts {
    let mut cuts = Cuts::new();
    for a in group {
        for b in (1..=nodes).filter(|b| !group.contains(b)) {
            both(&mut cuts, End::Node(*a), End::Node(b));
        }
        if clients {
            both(&mut cuts, End::Node(*a), End::Clients);
        }
    }
    cuts
}

/// Each node reaches only its two neighbours; of three nodes, in which all are neighbours, the link between `at` and
/// the next is cut. Every node still reaches a majority, and no two need see the same one.
pub fn ring(nodes: u16, at: NodeId) -> Cuts {
    let next = |node: NodeId| node % nodes + 1;
    let mut cuts = Cuts::new();
    if nodes == 3 {
        both(&mut cuts, End::Node(at), End::Node(next(at)));
        return cuts;
    }
    for a in 1..=nodes {
        for b in (a + 1..=nodes).filter(|b| next(a) != *b && next(*b) != a) {
            both(&mut cuts, End::Node(a), End::Node(b));
        }
    }
    cuts
}

pub fn one_way(from: NodeId, to: NodeId) -> Cuts {
    [(End::Node(from), End::Node(to))].into()
}

fn address(layout: &Layout, end: End) -> String {
    match end {
        End::Node(node) => layout.host(node),
        End::Clients => HUB.to_string(),
    }
}

/// Makes exactly `cuts` so.
pub fn apply(layout: &Layout, cuts: &Cuts) -> anyhow::Result<()> {
    let Some(pid) = layout.network_of else { return Ok(()) };
    for node in layout.ids() {
        let inside = format!("ip netns exec {} iptables -w", namespaces::of_node(pid, node));
        run(&format!("{inside} -F"))?;
        for (from, to) in cuts {
            // Dropped where they arrive; what goes to the clients, where it leaves.
            match (from, to) {
                (from, End::Node(to)) if *to == node => {
                    run(&format!("{inside} -A INPUT -s {} -j DROP", address(layout, *from)))?;
                }
                (End::Node(from), End::Clients) if *from == node => {
                    run(&format!("{inside} -A OUTPUT -d {HUB} -j DROP"))?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reaches(cuts: &Cuts, nodes: u16, node: NodeId) -> usize {
        (1..=nodes).filter(|other| *other != node && !cuts.contains(&(End::Node(node), End::Node(*other)))).count()
    }

    #[test]
    fn a_split_cuts_across_and_not_within() {
        let cuts = split(5, &[1, 2], false);
        assert_eq!(cuts.len(), 12);
        assert!(!cuts.contains(&(End::Node(1), End::Node(2))));
        assert!(!cuts.iter().any(|(a, b)| *a == End::Clients || *b == End::Clients));
        assert!(split(3, &[2], true).contains(&(End::Clients, End::Node(2))));
    }

    #[test]
    fn in_a_ring_each_has_two_neighbours() {
        let cuts = ring(5, 1);
        assert!((1..=5).all(|node| reaches(&cuts, 5, node) == 2), "{cuts:?}");
        let three = ring(3, 3);
        assert_eq!((reaches(&three, 3, 1), reaches(&three, 3, 2), reaches(&three, 3, 3)), (1, 2, 1));
    }

    #[test]
    fn one_way_leaves_the_way_back() {
        assert_eq!(one_way(1, 3).len(), 1);
    }
}
