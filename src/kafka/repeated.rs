//! Requests that name one thing many times: it is answered once, so that a short request has no long answer.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// The first item of each key, in the order given.
pub fn first_of_each<T, K: Hash + Eq>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut seen = HashSet::with_capacity(items.len());
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}

/// Each partition at its first place, over all topics; a topic keeps its place even where nothing is left of it.
pub fn each_partition_once<T, K: Hash + Eq>(
    topics: &mut [T],
    key: impl Fn(&T) -> K,
    partitions: impl Fn(&mut T) -> &mut Vec<i32>,
) {
    let mut seen: HashMap<K, HashSet<i32>> = HashMap::new();
    for topic in topics {
        let seen = seen.entry(key(topic)).or_default();
        partitions(topic).retain(|partition| seen.insert(*partition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_counts_once_and_keeps_its_place() {
        assert_eq!(first_of_each(vec![("b", 1), ("a", 2), ("b", 3)], |item| item.0), [("b", 1), ("a", 2)]);
        let mut topics = vec![("t", vec![1, 0, 1]), ("u", vec![1]), ("t", vec![0, 2, 2])];
        each_partition_once(&mut topics, |topic| topic.0, |topic| &mut topic.1);
        assert_eq!(topics, [("t", vec![1, 0]), ("u", vec![1]), ("t", vec![2])]);
    }
}
