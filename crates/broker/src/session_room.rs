//! Whether one more session may be there: one stays in the memory of every replica of its shard until it expires.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use cluster::{Cluster, Totals};

use crate::config::Limits;
use crate::refusal::Rejected;
use crate::shared::Shared;
use crate::tenants::Tenant;

/// More than come between two looks, as a rule.
const FAR: u64 = 1000;

/// Sessions in the whole cluster.
#[derive(Default, Debug)]
pub(crate) struct SessionRoom {
    /// As of the last look.
    seen: AtomicU64,
    /// Those that this node has asked for and has no answer yet.
    coming: AtomicU64,
}

/// A session that was asked for, until there is an answer.
#[derive(Debug)]
pub(crate) struct Coming<'a> {
    all: &'a AtomicU64,
    of_tenant: Option<&'a AtomicU64>,
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(1, Relaxed);
        if let Some(of_tenant) = self.of_tenant {
            of_tenant.fetch_sub(1, Relaxed);
        }
    }
}

impl SessionRoom {
    pub(crate) fn look(&self, cluster: &Cluster, totals: &Totals) {
        self.seen.store(cluster.of_all_shards(totals.sessions), Relaxed);
    }

    /// Whether there may be one more, which may outlive its connection; or what is against it: then only one that is there already
    /// may be taken. Nodes that ask at once do not know of each other, and may add one each.
    pub(crate) fn ask<'a>(
        &'a self,
        shared: &Shared,
        limits: &Limits,
        tenant: Option<&'a Tenant>,
        is_kept: bool,
    ) -> Result<Coming<'a>, Rejected> {
        let cluster = &shared.cluster;
        let coming = Coming {
            all: &self.coming,
            of_tenant: tenant.map(|tenant| &tenant.sessions_coming),
        };
        let others = coming.all.fetch_add(1, Relaxed);
        let others_of_tenant = coming.of_tenant.map_or(0, |count| count.fetch_add(1, Relaxed));
        if is_kept && shared.overload.keeps_no_more() {
            return Err(Rejected::Overload);
        }
        let max = u64::from(limits.sessions_max);
        // Far below the limit the last look will do.
        let is_near = max > 0 && (self.seen.load(Relaxed) + others + FAR) * 2 >= max;
        if is_near && cluster.of_all_shards(cluster.totals_held().sessions) + others >= max {
            return Err(Rejected::Sessions);
        }
        if let Some(tenant) = tenant.filter(|tenant| tenant.quotas.sessions_max > 0) {
            let sessions = cluster.of_all_shards(cluster.sessions_held(tenant.name()));
            if sessions + others_of_tenant >= u64::from(tenant.quotas.sessions_max) {
                return Err(Rejected::SessionsPerTenant);
            }
        }
        Ok(coming)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use access::Principal;

    use super::*;
    use crate::config::{self, TenantSource};
    use crate::overload::Level;
    use crate::tenants::Tenants;
    use crate::testing::node;

    #[tokio::test]
    async fn what_was_asked_for_counts_until_there_is_an_answer() {
        let (_files, shared) = node().await;
        let config = config::Tenants {
            from: vec![TenantSource::User],
            sessions_max: 1,
            ..config::Tenants::default()
        };
        let tenants = Tenants::new(&config);
        let tenant = |user: &str| {
            let principal = Principal::named(user, "c", IpAddr::from([10, 0, 0, 1]));
            tenants.of(&principal, 0).unwrap().unwrap()
        };
        let (acme, globex) = (tenant("acme.anna"), tenant("globex.anna"));
        let limits = Limits {
            sessions_max: 2,
            ..Limits::default()
        };
        let room = SessionRoom::default();
        let ask = |tenant| room.ask(&shared, &limits, tenant, false);

        let first = ask(Some(&acme)).unwrap();
        assert_eq!(ask(Some(&acme)).unwrap_err(), Rejected::SessionsPerTenant);
        let second = ask(Some(&globex)).unwrap();
        assert_eq!(ask(None).unwrap_err(), Rejected::Sessions);
        drop((first, second));
        assert_eq!(room.coming.load(Relaxed) + acme.sessions_coming.load(Relaxed), 0);
        assert!(ask(Some(&acme)).is_ok());
    }

    #[tokio::test]
    async fn while_memory_is_short_no_more_is_kept() {
        let (_files, shared) = node().await;
        let room = SessionRoom::default();
        let ask = |is_kept| room.ask(&shared, &Limits::default(), None, is_kept).map(drop);
        assert_eq!([ask(true), ask(false)], [Ok(()), Ok(())]);
        shared.overload.set(Level::Slow);
        assert_eq!([ask(true), ask(false)], [Err(Rejected::Overload), Ok(())]);
    }
}
