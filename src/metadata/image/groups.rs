//! Consumer groups' committed membership and assignment.

use super::persistent;
use crate::metadata::command::GroupState;
use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Groups {
    #[serde(deserialize_with = "persistent::map")]
    pub groups: OrdMap<String, Arc<GroupState>>,
}
