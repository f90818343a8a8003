//! How many connections there are on this node, and how many of them an address, a user and a tenant have.

use std::net::IpAddr;
use std::sync::Arc;

use access::backoff::Key;
use foldhash::HashMap;
use parking_lot::Mutex;

/// What connections are counted by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum PlaceOf {
    /// All connections.
    Node,
    /// By what its failures are counted by, too.
    Address(Key),
    /// Of a tenant, or of none.
    User(Option<Arc<str>>, Arc<str>),
    Tenant(Arc<str>),
}

/// The counts; who has none is not in it.
#[derive(Default, Debug)]
pub(crate) struct Places {
    taken: Mutex<HashMap<PlaceOf, u32>>,
}

/// One connection's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    of: PlaceOf,
}

impl PlaceOf {
    /// Who has an address of IPv6 has the 2^64 around it, and counts once.
    pub(crate) fn address(address: IpAddr) -> Self {
        Self::Address(Key::address(address))
    }
}

impl Places {
    /// Takes a place if fewer than `max` are taken; `None`: there is none left.
    pub(crate) fn take(self: &Arc<Self>, of: PlaceOf, max: u32) -> Option<Place> {
        let mut taken = self.taken.lock();
        let count = taken.get(&of).copied().unwrap_or_default();
        if count >= max {
            return None;
        }
        taken.insert(of.clone(), count + 1);
        Some(Place {
            places: Arc::clone(self),
            of,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        if let Some(count) = taken.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_apart_and_given_back() {
        let places = Arc::new(Places::default());
        let user = || PlaceOf::User(None, "anna".into());
        let address = PlaceOf::address(IpAddr::from([10, 0, 0, 1]));
        let first = places.take(user(), 2);
        let second = places.take(user(), 2);
        assert!(first.is_some() && second.is_some());
        assert!(places.take(user(), 2).is_none());
        assert!(places.take(address, 2).is_some());
        drop(second);
        assert!(places.take(user(), 2).is_some());
        drop(first);
        assert!(places.taken.lock().is_empty());
    }

    #[test]
    fn an_address_of_ipv6_counts_with_its_neighbours() {
        let of = |text: &str| PlaceOf::address(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:0:0:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
    }
}
