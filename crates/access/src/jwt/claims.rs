//! What a token claims, once its signature is known to be right.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Accepted, Policy, Refusal};

pub(super) fn judge(claims: &Map<String, Value>, policy: &Policy, now: u64) -> Result<Accepted, Refusal> {
    // A token that never ends cannot be taken back.
    let expiry = date(claims, "exp")?.ok_or(Refusal::Claim)?;
    let expires_at = expiry.saturating_add(policy.leeway_seconds);
    if now >= expires_at {
        return Err(Refusal::Expired);
    }
    if date(claims, "nbf")?.is_some_and(|begin| now.saturating_add(policy.leeway_seconds) < begin) {
        return Err(Refusal::NotYet);
    }
    let names = |claim: &str, wanted: &Option<String>| {
        let is_named = |name: &String| texts(claims.get(claim)).contains(name);
        wanted.as_ref().is_none_or(is_named)
    };
    if !names("iss", &policy.issuer) || !names("aud", &policy.audience) {
        return Err(Refusal::Audience);
    }
    let user = claims.get(&policy.user_claim).and_then(Value::as_str);
    let user = user.filter(|user| !user.is_empty()).ok_or(Refusal::Claim)?;
    Ok(Accepted {
        user: user.to_owned(),
        groups: words(claims.get(&policy.groups_claim)),
        claims: all_texts(claims),
        expires_at,
    })
}

/// A list, or words with spaces between them.
pub(crate) fn words(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(words)) => words.split_whitespace().map(str::to_owned).collect(),
        list => texts(list),
    }
}

/// Every member but null, each with as much of it as can be said in text.
pub(crate) fn all_texts(members: &Map<String, Value>) -> BTreeMap<String, Vec<String>> {
    let said = members.iter().filter(|(_, value)| !value.is_null());
    said.map(|(name, value)| (name.clone(), texts(Some(value))))
        .collect()
}

/// Whole seconds since 1970; fractions are cut off, times before 1970 are that moment.
fn date(claims: &Map<String, Value>, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(value) = claims.get(name) else {
        return Ok(None);
    };
    let seconds = value
        .as_u64()
        .or_else(|| value.as_f64().map(|number| number as u64));
    seconds.map(Some).ok_or(Refusal::Claim)
}

/// A claim as text; a list has one per item.
fn texts(value: Option<&Value>) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    match value {
        Some(Value::Array(items)) => items.iter().filter_map(text).collect(),
        value => value.and_then(text).into_iter().collect(),
    }
}
