//! Reading persistent maps from bytes.
//!
//! imbl's own deserializers reserve memory for as many elements as the bytes claim to hold; these read through the
//! standard collections, which grow only as elements really arrive.

use imbl::{OrdMap, Vector};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;

pub fn map<'de, D, K, V>(deserializer: D) -> Result<OrdMap<K, V>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + Clone,
    V: Deserialize<'de> + Clone,
{
    Ok(BTreeMap::<K, V>::deserialize(deserializer)?.into_iter().collect())
}

pub fn map_of_maps<'de, D, K, L, V>(deserializer: D) -> Result<OrdMap<K, OrdMap<L, V>>, D::Error>
where
    D: Deserializer<'de>,
    K: Deserialize<'de> + Ord + Clone,
    L: Deserialize<'de> + Ord + Clone,
    V: Deserialize<'de> + Clone,
{
    let maps = BTreeMap::<K, BTreeMap<L, V>>::deserialize(deserializer)?;
    Ok(maps.into_iter().map(|(key, inner)| (key, inner.into_iter().collect::<OrdMap<L, V>>())).collect())
}

pub fn vector<'de, D, T>(deserializer: D) -> Result<Vector<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Clone,
{
    Ok(Vec::<T>::deserialize(deserializer)?.into_iter().collect())
}
