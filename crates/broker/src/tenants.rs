//! Tenants on this node: to which one a client belongs, how its names get into the world that all share, and what its clients
//! have used together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use access::{NameSource, Principal};
use bytestring::ByteString;
use foldhash::HashMap;
use mqtt_codec::{Limit, Publication, ReasonCode};
use mqtt_session::ProtocolError;
use mqtt_topic::{SubscriptionFilter, TopicName, TopicSpace};
use parking_lot::Mutex;

use crate::config::{self, TenantSource, WithoutTenant};
use crate::meter::Meter;

/// Microseconds' worth that the clients of a tenant may publish up ahead.
const BURST_US: u64 = 1_000_000;
/// Tenants that nobody is connected for are looked for when there are so many.
const SWEEP_FROM: usize = 1024;
/// Longest response topic, as MQTT can write it.
const RESPONSE_TOPIC_BYTES_MAX: usize = 65_535;

/// Why a client cannot be told from others, or a name does not fit.
pub(crate) type Reason = &'static str;

/// One tenant.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) space: TopicSpace,
    /// With its own quotas in the place of everybody's.
    pub(crate) quotas: config::Tenants,
    /// `None`: what its clients publish is not limited.
    rate: Option<Mutex<Rate>>,
    /// Of its clients that are connected here.
    subscriptions: AtomicU64,
    /// Sessions that this node has asked for and has no answer yet.
    pub(crate) sessions_coming: AtomicU64,
}

/// A subscription that counts for a tenant as long as this is there.
#[derive(Debug)]
pub(crate) struct CountedSubscription(Arc<Tenant>);

impl CountedSubscription {
    pub(crate) fn of(tenant: &Arc<Tenant>) -> Self {
        tenant.subscriptions.fetch_add(1, Relaxed);
        Self(Arc::clone(tenant))
    }
}

impl Drop for CountedSubscription {
    fn drop(&mut self) {
        self.0.subscriptions.fetch_sub(1, Relaxed);
    }
}

#[derive(Debug)]
struct Rate {
    messages: Meter,
    bytes: Meter,
}

impl Rate {
    fn welcome_ms(&self) -> u64 {
        self.messages.welcome_ms().max(self.bytes.welcome_ms())
    }
}

/// Longest topic, and how many levels it may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopicBounds {
    pub(crate) bytes_max: usize,
    pub(crate) levels_max: usize,
}

impl TopicBounds {
    /// Which of them a topic or filter, with the tenant's name in front, is beyond.
    fn exceeded(&self, text: &str, levels: usize) -> Option<Limit> {
        match (text.len() > self.bytes_max, levels > self.levels_max) {
            (true, _) => Some(Limit::TopicBytes),
            (_, true) => Some(Limit::TopicLevels),
            _ => None,
        }
    }
}

impl Tenant {
    fn new(space: TopicSpace, quotas: config::Tenants) -> Self {
        let (messages, bytes) = (
            quotas.publish_messages_per_second_max,
            quotas.publish_bytes_per_second_max.get(),
        );
        let rate = (messages > 0 || bytes > 0).then(|| {
            Mutex::new(Rate {
                messages: Meter::new(messages.into(), BURST_US),
                bytes: Meter::new(bytes, BURST_US),
            })
        });
        Self {
            space,
            quotas,
            rate,
            subscriptions: AtomicU64::new(0),
            sessions_coming: AtomicU64::new(0),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.space.name()
    }

    /// Whether its clients may have one subscription more, besides so many that one of them is about to have.
    pub(crate) fn admits_subscription(&self, besides: usize) -> bool {
        let max = u64::from(self.quotas.subscriptions_max);
        max == 0 || self.subscriptions.load(Relaxed) + (besides as u64) < max
    }

    /// Whether what its clients publish in a second is limited.
    pub(crate) fn is_rate_limited(&self) -> bool {
        self.rate.is_some()
    }

    /// A client of it has published. Answers when that is paid for, in milliseconds: until then this client waits. So those who
    /// publish get their turns one after the other, and none is woken in vain.
    pub(crate) fn charge(&self, bytes: usize, now_ms: u64) -> u64 {
        let Some(rate) = &self.rate else { return 0 };
        let mut rate = rate.lock();
        rate.messages.charge(1, now_ms * 1000);
        rate.bytes.charge(bytes as u64, now_ms * 1000);
        rate.welcome_ms()
    }

    /// When everything that was published so far is paid for: who connects anew has no other start.
    pub(crate) fn welcome_ms(&self) -> u64 {
        self.rate.as_ref().map_or(0, |rate| rate.lock().welcome_ms())
    }

    /// A message of a client as everybody else sees it. `last` is the topic that came in last: it need not be made again.
    pub(crate) fn enter(
        &self,
        publication: Publication,
        bounds: TopicBounds,
        last: &mut Option<TopicName>,
    ) -> Result<Publication, ProtocolError> {
        let topic = publication.topic();
        let is_last = |last: &TopicName| self.space.leave_text(last.as_str()) == Some(topic.as_str());
        let entered = match last.as_ref().filter(|last| is_last(last)) {
            Some(last) => last.clone(),
            None => {
                let entered = self.space.enter(topic).map_err(|_| too_long(Limit::TopicBytes))?;
                if let Some(limit) = bounds.exceeded(entered.as_str(), entered.levels()) {
                    return Err(too_long(limit));
                }
                *last = Some(entered.clone());
                entered
            }
        };
        let mut fits = true;
        let publication = publication
            .with_topic(entered)
            .map_response_topic(|response_topic| {
                let entered = self.space.enter_text(response_topic);
                fits = entered.len() <= RESPONSE_TOPIC_BYTES_MAX;
                fits.then_some(entered)
            });
        match fits {
            true => Ok(publication),
            false => Err(ProtocolError::new(
                ReasonCode::TopicNameInvalid,
                "response topic is too long with the tenant's name in front",
            )),
        }
    }

    /// A filter of a client as everybody else sees it, if it is not too long or too deep then.
    pub(crate) fn enter_filter(
        &self,
        filter: &SubscriptionFilter,
        bounds: TopicBounds,
    ) -> Result<SubscriptionFilter, Limit> {
        let entered = self.space.enter_filter(filter).map_err(|_| Limit::TopicBytes)?;
        let plain = entered.filter();
        match bounds.exceeded(plain.as_str(), plain.levels()) {
            Some(limit) => Err(limit),
            None => Ok(entered),
        }
    }

    /// A message as its clients see it; `None`: it is not for them. A response topic that they could not publish to is left
    /// out.
    pub(crate) fn leave(&self, publication: Publication) -> Option<Publication> {
        let topic = self.space.leave(publication.topic())?;
        let own = |response_topic: &str| self.space.leave_text(response_topic).map(str::to_owned);
        Some(publication.with_topic(topic).map_response_topic(own))
    }
}

fn too_long(limit: Limit) -> ProtocolError {
    let detail = "topic is too long or too deep with the tenant's name in front";
    ProtocolError::beyond(limit, ReasonCode::TopicNameInvalid, detail)
}

/// All tenants that clients were connected for.
#[derive(Debug)]
pub(crate) struct Tenants {
    config: config::Tenants,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    by_name: HashMap<String, Arc<Tenant>>,
    sweep_at: usize,
}

impl Tenants {
    pub(crate) fn new(config: &config::Tenants) -> Self {
        Self {
            config: config.clone(),
            known: Mutex::new(Known {
                by_name: HashMap::default(),
                sweep_at: SWEEP_FROM,
            }),
        }
    }

    /// The tenant of a client that has shown who it is. `Ok(None)`: it has none, and needs none.
    pub(crate) fn of(&self, principal: &Principal, now_ms: u64) -> Result<Option<Arc<Tenant>>, Reason> {
        if !self.config.is_on() {
            return Ok(None);
        }
        let mut sources = self.config.from.iter();
        match sources.find_map(|source| self.name_by(*source, principal)) {
            Some(name) => {
                let space =
                    TopicSpace::new(&name?).map_err(|_| "the client's tenant has a name that cannot be")?;
                Ok(Some(self.named(space, now_ms)))
            }
            None if self.config.without == WithoutTenant::Allow => Ok(None),
            None => Err("the client is of no tenant"),
        }
    }

    /// The name by one source; `None`: it is not there.
    fn name_by(&self, source: TenantSource, principal: &Principal) -> Option<Result<String, Reason>> {
        match source {
            TenantSource::Certificate => {
                let certificate = principal.certificate.as_ref()?;
                let name = certificate.sole_name(NameSource::from(self.config.certificate_name));
                match name.transpose()? {
                    Ok(name) => Some(Ok(name.to_owned())),
                    Err(_) => Some(Err("the certificate does not name one tenant")),
                }
            }
            TenantSource::Claim => match principal.claims.get(&self.config.claim)?.as_slice() {
                [name] => Some(Ok(name.clone())),
                _ => Some(Err("the client does not name one tenant")),
            },
            TenantSource::User => {
                let user = principal.user.as_deref()?;
                let (name, _) = user.split_once(&self.config.user_separator)?;
                Some(Ok(name.to_owned()))
            }
        }
    }

    fn named(&self, space: TopicSpace, now_ms: u64) -> Arc<Tenant> {
        let mut known = self.known.lock();
        if let Some(tenant) = known.by_name.get(space.name()) {
            return Arc::clone(tenant);
        }
        if known.by_name.len() >= known.sweep_at {
            // Who owes something is remembered: nobody gets rid of that by leaving and coming back.
            known.by_name.retain(|_, tenant| {
                Arc::strong_count(tenant) > 1 || tenant.welcome_ms() + BURST_US / 1000 > now_ms
            });
            known.sweep_at = SWEEP_FROM.max(known.by_name.len() * 2);
        }
        let name = space.name().to_owned();
        let tenant = Arc::new(Tenant::new(space, self.config.of(&name)));
        known.by_name.insert(name, Arc::clone(&tenant));
        tenant
    }

    /// A client id as everybody but its tenant's clients sees it: no two tenants have the same.
    pub(crate) fn client_id(
        &self,
        tenant: Option<&Tenant>,
        client_id: &ByteString,
        bytes_max: usize,
    ) -> Result<ByteString, Reason> {
        match tenant {
            Some(tenant) => {
                let entered = tenant.space.enter_text(client_id);
                match entered.len() <= bytes_max {
                    true => Ok(entered.into()),
                    false => Err("client id is too long with the tenant's name in front"),
                }
            }
            // It would be that of a tenant's client.
            None if self.config.is_on() && client_id.contains('/') => {
                Err("a client without a tenant must not have a client id with a slash")
            }
            None => Ok(client_id.clone()),
        }
    }

    /// Whether a whole client id is that of a tenant's client.
    pub(crate) fn is_of_a_tenant(&self, client: &str) -> bool {
        self.config.is_on() && client.contains('/')
    }

    /// Tenant, client id and topic as a client wrote them that is gone, and of which only its whole client id is left.
    pub(crate) fn as_written(&self, client: &str, topic: TopicName) -> (Option<String>, String, TopicName) {
        let written = || {
            let (name, client_id) = client.split_once('/')?;
            let space = TopicSpace::new(name).ok()?;
            let topic = space.leave(&topic)?;
            Some((Some(name.to_owned()), client_id.to_owned(), topic))
        };
        match self.config.is_on().then(written).flatten() {
            Some(written) => written,
            None => (None, client.to_owned(), topic),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use access::Certificate;
    use bytes::Bytes;
    use mqtt_codec::MessageProperties;

    use super::*;

    const BOUNDS: TopicBounds = TopicBounds {
        bytes_max: 20,
        levels_max: 4,
    };

    fn tenants(from: &[TenantSource], change: impl FnOnce(&mut config::Tenants)) -> Tenants {
        let mut config = config::Tenants {
            from: from.to_vec(),
            ..config::Tenants::default()
        };
        change(&mut config);
        Tenants::new(&config)
    }

    fn user(name: &str) -> Principal {
        Principal::named(name, "c", IpAddr::from([10, 0, 0, 1]))
    }

    fn name_of(tenants: &Tenants, principal: &Principal) -> Result<Option<String>, Reason> {
        let tenant = tenants.of(principal, 0)?;
        Ok(tenant.map(|tenant| tenant.name().to_owned()))
    }

    fn publication(topic: &str, response_topic: Option<&str>) -> Publication {
        let properties = MessageProperties {
            response_topic: response_topic.map(Into::into),
            user_properties: vec![("k".into(), "v".into())],
            ..MessageProperties::default()
        };
        let topic = TopicName::parse(topic.into()).unwrap();
        Publication::from_parts(topic, &properties, Bytes::from_static(b"x"))
    }

    #[test]
    fn the_first_source_that_names_a_tenant_counts_and_a_bad_name_is_refused() {
        let tenants = tenants(&[TenantSource::Claim, TenantSource::User], |_| {});
        let with_claim = |values: &[&str]| {
            let mut principal = user("acme.anna");
            let values = values.iter().map(|value| (*value).to_owned()).collect();
            principal.claims.insert("tenant".to_owned(), values);
            principal
        };
        assert_eq!(
            name_of(&tenants, &user("acme.anna.b")),
            Ok(Some("acme".to_owned()))
        );
        assert_eq!(
            name_of(&tenants, &with_claim(&["other"])),
            Ok(Some("other".to_owned()))
        );
        assert!(name_of(&tenants, &with_claim(&["a", "b"])).is_err());
        assert!(
            name_of(&tenants, &with_claim(&[])).is_err(),
            "one that is no text"
        );
        for bad in ["", "a/b", "+", "#", "a+", "$SYS", "a\0", "a\n"] {
            assert!(name_of(&tenants, &with_claim(&[bad])).is_err(), "{bad:?}");
        }
        assert!(name_of(&tenants, &user(".anna")).is_err(), "an empty name is one");
        assert!(name_of(&tenants, &user("anna")).is_err(), "none is not welcome");
        let nobody = Principal::anonymous("acme.c", IpAddr::from([10, 0, 0, 1]));
        assert!(name_of(&tenants, &nobody).is_err());
    }

    #[test]
    fn a_certificate_names_its_tenant_by_one_name_alone() {
        let tenants = tenants(&[TenantSource::Certificate], |_| {});
        let with_names = |names: &[&str]| {
            let certificate = Certificate {
                dns_names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..Certificate::told_by_proxy("device-7")
            };
            Principal {
                certificate: Some(Arc::new(certificate)),
                ..user("anna")
            }
        };
        assert_eq!(
            name_of(&tenants, &with_names(&["acme"])),
            Ok(Some("acme".to_owned()))
        );
        for names in [&[][..], &["acme", "globex"], &["a/b"]] {
            assert!(name_of(&tenants, &with_names(names)).is_err(), "{names:?}");
        }
        // Who is not told which of two is meant does not fall to what is asked next, or to none.
        let sources = [TenantSource::Certificate, TenantSource::User];
        let tenants = self::tenants(&sources, |config| config.without = WithoutTenant::Allow);
        let as_globex = |names: &[&str]| Principal {
            user: Some("globex.spy".to_owned()),
            ..with_names(names)
        };
        assert_eq!(name_of(&tenants, &as_globex(&[])), Ok(Some("globex".to_owned())));
        for names in [&["acme", "acme-backup"][..], &[""], &["acme\n"]] {
            assert!(name_of(&tenants, &as_globex(names)).is_err(), "{names:?}");
            assert!(name_of(&tenants, &with_names(names)).is_err(), "{names:?}");
        }
    }

    #[test]
    fn without_a_tenant_a_client_has_no_id_that_could_be_a_tenants() {
        let tenants = tenants(&[TenantSource::User], |config| {
            config.without = WithoutTenant::Allow
        });
        assert_eq!(name_of(&tenants, &user("anna")), Ok(None));
        let acme = tenants.of(&user("acme.anna"), 0).unwrap();
        let id = |tenant: Option<&Tenant>, id: &'static str| {
            tenants.client_id(tenant, &ByteString::from_static(id), 10)
        };
        assert_eq!(id(acme.as_deref(), "c/1").as_deref(), Ok("acme/c/1"));
        assert_eq!(id(None, "c-1").as_deref(), Ok("c-1"));
        assert!(id(None, "acme/c-1").is_err() && id(None, "/").is_err());
        assert!(id(acme.as_deref(), "123456").is_err(), "too long as a whole");
        let topic = |text: &'static str| TopicName::parse(text.into()).unwrap();
        let written = tenants.as_written("acme/c/1", topic("acme/a/b"));
        assert_eq!(written, (Some("acme".to_owned()), "c/1".to_owned(), topic("a/b")));
        let none = tenants.as_written("c-1", topic("acme/a"));
        assert_eq!(none, (None, "c-1".to_owned(), topic("acme/a")));
        let off = Tenants::new(&config::Tenants::default());
        assert_eq!(off.as_written("acme/c", topic("acme/a")).1, "acme/c");
        assert!(off.client_id(None, &ByteString::from_static("a/b"), 10).is_ok());
    }

    #[test]
    fn topics_and_response_topics_are_the_clients_own_on_the_way_in_and_out() {
        let tenants = tenants(&[TenantSource::User], |_| {});
        let acme = tenants.of(&user("acme.anna"), 0).unwrap().unwrap();
        let mut last = None;
        let sent = publication("a/b", Some("answers"));
        for _ in 0..2 {
            let entered = acme.enter(sent.clone(), BOUNDS, &mut last).unwrap();
            assert_eq!(entered.topic().as_str(), "acme/a/b");
            let properties = entered.properties();
            assert_eq!(properties.response_topic.as_deref(), Some("acme/answers"));
            assert_eq!(properties.user_properties.len(), 1);
            assert_eq!(acme.leave(entered), Some(sent.clone()));
        }
        let other = acme.enter(publication("a/bb", None), BOUNDS, &mut last).unwrap();
        assert_eq!(other.topic().as_str(), "acme/a/bb");
        assert_eq!(acme.leave(publication("other/a", None)), None);
        assert_eq!(acme.leave(publication("acme/$SYS/a", None)), None);
        // Of somebody without a tenant, who waits for the answer where this client cannot publish.
        let foreign = acme.leave(publication("acme/a", Some("answers"))).unwrap();
        assert_eq!(foreign.properties().response_topic, None);
    }

    #[test]
    fn limits_of_topics_hold_for_the_whole() {
        let tenants = tenants(&[TenantSource::User], |_| {});
        let acme = tenants.of(&user("acme.anna"), 0).unwrap().unwrap();
        let enters = |topic: &str| acme.enter(publication(topic, None), BOUNDS, &mut None).is_ok();
        assert!(enters("123456789012345") && !enters("1234567890123456"));
        assert!(enters("1/2/3") && !enters("1/2/3/4"));
        let long = "x".repeat(65_533);
        let answered = acme.enter(publication("a", Some(&long)), BOUNDS, &mut None);
        assert!(answered.is_err());
    }

    #[test]
    fn clients_of_a_tenant_take_turns_and_leaving_pays_nothing() {
        let tenants = tenants(&[TenantSource::User], |config| {
            config.publish_messages_per_second_max = 10;
        });
        let acme = tenants.of(&user("acme.anna"), 1_000).unwrap().unwrap();
        for _ in 0..10 {
            assert!(acme.charge(1, 1_000) <= 1_000, "a second's worth");
        }
        assert_eq!([acme.charge(1, 1_000), acme.charge(1, 1_000)], [1_100, 1_200]);
        drop(acme);
        let again = tenants.of(&user("acme.bob"), 1_000).unwrap().unwrap();
        assert_eq!(again.welcome_ms(), 1_200);
        let other = tenants.of(&user("other.bob"), 1_000).unwrap().unwrap();
        assert_eq!(other.welcome_ms(), 0, "nobody else pays");
    }

    #[test]
    fn who_owes_nothing_and_is_not_here_is_forgotten() {
        let tenants = tenants(&[TenantSource::User], |config| {
            config.publish_messages_per_second_max = 1;
        });
        let stays = tenants.of(&user("stays.a"), 0).unwrap();
        let owes = tenants.of(&user("owes.a"), 0).unwrap().unwrap();
        owes.charge(1, 1_000_000);
        drop(owes);
        for number in 0..SWEEP_FROM {
            tenants.of(&user(&format!("t{number}.a")), 1_000_000).unwrap();
        }
        let known = tenants.known.lock();
        assert!(known.by_name.len() < SWEEP_FROM);
        assert!(known.by_name.contains_key("stays") && known.by_name.contains_key("owes"));
        drop(stays);
    }
}
