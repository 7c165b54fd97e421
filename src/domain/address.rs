//! Addresses: whether traffic to them can be read in transit.

use url::{Host, Url};

/// Tells whether an address is on this machine, so that plain http to it cannot be read in transit.
#[must_use]
pub fn is_on_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
