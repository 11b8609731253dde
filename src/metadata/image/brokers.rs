//! Registered brokers in the image.

use crate::ids::*;
use crate::metadata::command::BrokerRegistration;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Broker {
    pub registration: BrokerRegistration,
    pub epoch: BrokerEpoch,
    /// A fenced broker leads nothing, is in no ISR (unless last) and after some seconds is not listed to clients.
    pub fenced: bool,
    /// A broker that asked to stop: no new leadership, no joining an ISR.
    pub shutting_down: bool,
    /// A person asked that it lead nothing and get no new replicas. Kept over restarts. It stays in the ISRs it is in, and
    /// leads again only where nobody else can.
    pub draining: bool,
}

impl Broker {
    /// May lead and join an ISR.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.shutting_down
    }

    /// New replicas may be placed there.
    pub fn takes_replicas(&self) -> bool {
        self.is_active() && !self.draining
    }
}
