//! Where the replicas of new partitions go: leaders in turn over the active brokers, followers spread over racks.
//!
//! Pure and deterministic for one seed. Brokers that lead least come first in the turn, so that many small topics
//! spread as well as one large topic does.

use crate::ids::BrokerId;
use crate::metadata::image::Image;
use std::collections::BTreeMap;

/// A registered broker as the placement sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub broker: BrokerId,
    pub rack: Option<String>,
    /// Unfenced and not shutting down. Others are used only where the active ones do not suffice, and never first.
    pub active: bool,
    pub load: Load,
}

/// What a broker already carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    /// Partitions whose preferred leader it is (a failover in progress must not skew the choice).
    pub leaders: u64,
    pub replicas: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("replication factor {asked} is larger than the {registered} registered brokers that take replicas")]
    TooFewBrokers { asked: usize, registered: usize },
    #[error("no broker is active right now; retry when one is")]
    NoneActive,
}

/// The registered brokers that new replicas may go to, with what each carries. Those being drained are not among them.
pub fn candidates(image: &Image, loads: &BTreeMap<BrokerId, Load>) -> Vec<Candidate> {
    image
        .brokers
        .iter()
        .filter(|(_, broker)| !broker.draining)
        .map(|(id, broker)| Candidate {
            broker: *id,
            rack: broker.registration.rack.clone(),
            active: broker.is_active(),
            load: loads.get(id).copied().unwrap_or_default(),
        })
        .collect()
}

/// What each broker carries, counted over the whole image.
pub fn count_loads(image: &Image) -> BTreeMap<BrokerId, Load> {
    let mut loads = BTreeMap::<BrokerId, Load>::new();
    for topic in image.topics.values() {
        for partition in &topic.partitions {
            add_replicas(&mut loads, &partition.replicas);
        }
    }
    loads
}

/// Adds one partition's replicas to the loads.
pub fn add_replicas(loads: &mut BTreeMap<BrokerId, Load>, replicas: &[BrokerId]) {
    for (place, broker) in replicas.iter().enumerate() {
        let load = loads.entry(*broker).or_default();
        load.replicas += 1;
        load.leaders += u64::from(place == 0);
    }
}

/// Replicas of `partitions` partitions, the preferred leader first. Holds: no broker twice in a partition; as many racks
/// as there are (up to the factor) while enough brokers are active; leaders differ by one at most among active brokers.
pub fn place(
    candidates: &[Candidate],
    partitions: usize,
    replication_factor: usize,
    seed: u64,
) -> Result<Vec<Vec<BrokerId>>, PlacementError> {
    if replication_factor > candidates.len() {
        return Err(PlacementError::TooFewBrokers { asked: replication_factor, registered: candidates.len() });
    }
    let mut ring: Vec<&Candidate> = candidates.iter().collect();
    ring.sort_by_key(|c| (!c.active, c.load, mixed(seed, c.broker)));
    let active = ring.iter().take_while(|c| c.active).count();
    if active == 0 {
        return Err(PlacementError::NoneActive);
    }
    let racks = rack_numbers(&ring);
    let mut used = vec![0u64; ring.len()];
    Ok((0..partitions)
        .map(|partition| {
            let leader = partition % active;
            let turn = partition / active;
            let chosen = replicas_of_one(&ring, &racks, &used, leader, turn, replication_factor);
            for index in &chosen {
                used[*index] += 1;
            }
            chosen.into_iter().map(|index| ring[index].broker).collect()
        })
        .collect())
}

/// The leader, then each follower by: active, rack not used yet, not used more than others, place in the turn. The turn
/// shifts each time around, so that a broker's leaders do not all have the same first follower to fall back to; a count
/// compared strictly would bring the same pairs together again and again, so one replica more than the least is let pass.
fn replicas_of_one(
    ring: &[&Candidate],
    racks: &[usize],
    used: &[u64],
    leader: usize,
    turn: usize,
    replication_factor: usize,
) -> Vec<usize> {
    let others = ring.len().saturating_sub(1).max(1);
    let least = used.iter().min().copied().unwrap_or(0);
    let mut chosen = vec![leader];
    while chosen.len() < replication_factor {
        let next = (0..ring.len()).filter(|index| !chosen.contains(index)).min_by_key(|index| {
            let rack_used = chosen.iter().filter(|c| racks[**c] == racks[*index]).count();
            let distance = (index + ring.len() - leader - 1) % ring.len();
            let place_in_turn = (distance + others - turn % others) % others;
            (!ring[*index].active, rack_used, used[*index].saturating_sub(least + 1), place_in_turn)
        });
        chosen.extend(Some(next.expect("the factor is at most the number of brokers")));
    }
    chosen
}

/// A number for each broker's rack; a broker without one is a rack of its own.
fn rack_numbers(ring: &[&Candidate]) -> Vec<usize> {
    let mut numbers = BTreeMap::<&str, usize>::new();
    ring.iter()
        .enumerate()
        .map(|(index, candidate)| match &candidate.rack {
            Some(rack) => *numbers.entry(rack).or_insert(index),
            None => index,
        })
        .collect()
}

/// Breaks ties by the seed (a SplitMix64 step), the same way everywhere.
fn mixed(seed: u64, broker: BrokerId) -> u64 {
    let mut z = seed.wrapping_add(u64::from(broker.0.unsigned_abs()).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn brokers(count: i32, racks: i32) -> Vec<Candidate> {
        (1..=count)
            .map(|id| Candidate {
                broker: BrokerId(id),
                rack: (racks > 0).then(|| format!("rack-{}", id % racks)),
                active: true,
                load: Load::default(),
            })
            .collect()
    }

    fn spread(counts: &BTreeMap<BrokerId, u64>) -> u64 {
        counts.values().max().unwrap() - counts.values().min().unwrap()
    }

    proptest! {
        #[test]
        fn balanced_and_never_twice(count in 1i32..12, partitions in 1usize..80, rf in 1usize..6, seed: u64) {
            let all = brokers(count, 0);
            let placed = place(&all, partitions, rf, seed);
            if rf > all.len() {
                prop_assert_eq!(placed, Err(PlacementError::TooFewBrokers { asked: rf, registered: all.len() }));
                return Ok(());
            }
            let placed = placed.unwrap();
            prop_assert_eq!(&placed, &place(&all, partitions, rf, seed).unwrap(), "the same seed places the same way");
            let mut leaders: BTreeMap<_, _> = all.iter().map(|c| (c.broker, 0u64)).collect();
            let mut replicas = leaders.clone();
            for partition in &placed {
                prop_assert_eq!(partition.len(), rf);
                prop_assert_eq!(partition.iter().collect::<BTreeSet<_>>().len(), rf, "a broker twice: {:?}", partition);
                *leaders.get_mut(&partition[0]).unwrap() += 1;
                for broker in partition {
                    *replicas.get_mut(broker).unwrap() += 1;
                }
            }
            prop_assert!(spread(&leaders) <= 1, "leaders: {:?}", leaders);
            prop_assert!(spread(&replicas) <= 3, "replicas: {:?}", replicas);
        }

        #[test]
        fn every_rack_is_used(per_rack in 1i32..4, racks in 1i32..5, rf in 1usize..5, partitions in 1usize..40, seed: u64) {
            let all = brokers(per_rack * racks, racks);
            prop_assume!(rf <= all.len());
            let rack_of: BTreeMap<_, _> = all.iter().map(|c| (c.broker, c.rack.clone().unwrap())).collect();
            for partition in place(&all, partitions, rf, seed).unwrap() {
                let used: BTreeSet<_> = partition.iter().map(|b| rack_of[b].clone()).collect();
                prop_assert_eq!(used.len(), rf.min(usize::try_from(racks).unwrap()));
            }
        }
    }

    #[test]
    fn fenced_brokers_fill_up_but_never_lead() {
        let mut all = brokers(3, 3);
        all[1].active = false;
        for partition in place(&all, 12, 3, 7).unwrap() {
            assert_eq!(partition[2], BrokerId(2), "the fenced one comes last: {partition:?}");
        }
        for partition in place(&all, 12, 2, 7).unwrap() {
            assert!(!partition.contains(&BrokerId(2)), "two active ones suffice, even in fewer racks");
        }
        all.iter_mut().for_each(|c| c.active = false);
        assert_eq!(place(&all, 1, 1, 7), Err(PlacementError::NoneActive));
    }

    #[test]
    fn small_topics_go_where_least_is_led() {
        let mut all = brokers(3, 0);
        all[0].load = Load { leaders: 5, replicas: 9 };
        all[1].load = Load { leaders: 5, replicas: 8 };
        all[2].load = Load { leaders: 4, replicas: 9 };
        assert_eq!(place(&all, 1, 3, 0).unwrap()[0][0], BrokerId(3));
    }

    #[test]
    fn a_dead_brokers_leaders_fall_to_different_brokers() {
        let placed = place(&brokers(5, 0), 40, 3, 3).unwrap();
        let seconds: BTreeSet<_> = placed.iter().filter(|p| p[0] == BrokerId(1)).map(|p| p[1]).collect();
        assert!(seconds.len() >= 3, "{seconds:?}");
    }
}
