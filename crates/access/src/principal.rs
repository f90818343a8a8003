//! What is known of a client once it has been let in; the rules are judged by this.

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Certificate;

/// A client that has shown who it is, or that may come without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The name it has proved; `None`: anonymous.
    pub user: Option<String>,
    /// The tenant it belongs to.
    pub tenant: Option<String>,
    /// Its client id as it wrote it, assigned ones included.
    pub client_id: String,
    /// Where it connects from.
    pub address: IpAddr,
    /// Groups that its token names. Groups of the rules file are known there.
    pub groups: Vec<String>,
    /// Claims of its token, as text; a list has one value per item.
    pub claims: BTreeMap<String, Vec<String>>,
    /// The certificate it has shown.
    pub certificate: Option<Arc<Certificate>>,
}

impl Principal {
    /// Somebody of whom only the client id and the address are known.
    pub fn anonymous(client_id: impl Into<String>, address: IpAddr) -> Self {
        Self {
            user: None,
            tenant: None,
            client_id: client_id.into(),
            address,
            groups: Vec::new(),
            claims: BTreeMap::new(),
            certificate: None,
        }
    }

    /// Somebody with a name and nothing else.
    pub fn named(user: impl Into<String>, client_id: impl Into<String>, address: IpAddr) -> Self {
        Self {
            user: Some(user.into()),
            ..Self::anonymous(client_id, address)
        }
    }
}
