//! Keys whose value is one of a few words.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::section::Value;

/// Declares an enum that is read and shown as words; the first variant is not special.
macro_rules! choice {
    (
        $(#[doc = $choice_doc:literal])*
        pub enum $choice:ident { $($(#[doc = $doc:literal])* $variant:ident = $word:literal,)* }
    ) => {
        $(#[doc = $choice_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $choice {
            $($(#[doc = $doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $choice {
            /// The word that stands for it in a configuration.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl fmt::Display for $choice {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Value for $choice {
            fn kind() -> String {
                [$(concat!("`\"", $word, "\"`")),*].join(", ")
            }

            fn show(&self) -> Option<String> {
                Some(format!("\"{self}\""))
            }
        }
    };
}

choice! {
    /// What a listener speaks below MQTT.
    pub enum Protocol {
        /// MQTT over TCP.
        Tcp = "tcp",
        /// MQTT over TLS.
        Tls = "tls",
        /// MQTT over WebSocket (MQTT 5.0, section 6).
        Ws = "ws",
        /// MQTT over WebSocket over TLS.
        Wss = "wss",
    }
}

impl Protocol {
    /// Whether the bytes on the wire are encrypted.
    pub const fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    /// Whether MQTT is carried in WebSocket frames.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// The name of a listener that was given none: what the flag for it is called.
    pub const fn default_listener_name(self) -> &'static str {
        match self {
            Self::Tcp => "mqtt",
            Self::Tls => "mqtts",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

choice! {
    /// Whether a proxy in front of a listener says who the client is.
    pub enum ProxyProtocol {
        /// There is no proxy; a header is not MQTT.
        Off = "off",
        /// Trusted addresses may send a header.
        Optional = "optional",
        /// Every connection comes from a trusted address and begins with a header.
        Required = "required",
    }
}

choice! {
    /// What gives way when a session's queue is full.
    pub enum WhenFull {
        /// The message that has waited longest.
        DropOldest = "drop-oldest",
        /// The message that has just come.
        DropNew = "drop-new",
    }
}

choice! {
    /// Which member of a shared subscription gets the next message.
    pub enum SharedStrategy {
        /// One after the other.
        RoundRobin = "round-robin",
        /// Any.
        Random = "random",
        /// The same as before as long as it can take messages.
        Sticky = "sticky",
        /// One per publisher.
        HashClient = "hash-client",
        /// One per topic.
        HashTopic = "hash-topic",
    }
}

choice! {
    /// What has happened to a kept message when its acknowledgement leaves.
    pub enum AckLevel {
        /// It is on the disks of a majority of its replicas.
        QuorumSynced = "quorum-synced",
        /// A majority of its replicas has it, perhaps only in memory.
        Quorum = "quorum",
        /// This node has it in memory.
        Received = "received",
    }
}

choice! {
    /// Somebody who knows clients.
    pub enum AuthMethod {
        /// The name in a verified certificate is the user's.
        Certificate = "certificate",
        /// User name and password, by the password file.
        Password = "password",
        /// A JSON Web Token in place of the password.
        Jwt = "jwt",
        /// A service, asked over HTTP.
        Http = "http",
    }
}

choice! {
    /// One of the names in a certificate.
    pub enum CertificateName {
        /// The common name of the subject.
        CommonName = "common-name",
        /// The only subject alternative name of the kind DNS.
        Dns = "dns",
        /// The only subject alternative name of the kind e-mail.
        Email = "email",
        /// The only subject alternative name of the kind URI.
        Uri = "uri",
        /// SHA-256 of the certificate, in small hexadecimal digits.
        Fingerprint = "fingerprint",
    }
}

choice! {
    /// Whether clients of a listener with `client_ca` have to show a certificate.
    pub enum ClientCertificate {
        /// Who has none is refused in the handshake.
        Required = "required",
        /// Who has none is known otherwise; a bad one is refused all the same.
        Optional = "optional",
    }
}

choice! {
    /// Which client ids a user may have.
    pub enum ClientIds {
        /// Any.
        Any = "any",
        /// The user name.
        User = "user",
        /// The user name, alone or with `-`, `:` or `.` and more behind it, unless that is a longer known name's.
        UserPrefix = "user-prefix",
    }
}

choice! {
    /// How a token is signed.
    pub enum JwtAlgorithm {
        /// HMAC with SHA-256.
        Hs256 = "HS256",
        /// RSA with SHA-256.
        Rs256 = "RS256",
        /// ECDSA on P-256 with SHA-256.
        Es256 = "ES256",
        /// Ed25519.
        EdDsa = "EdDSA",
    }
}

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// For people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}
choice! {
    /// Where the name of a client's tenant is looked for.
    pub enum TenantSource {
        /// In the certificate it has shown.
        Certificate = "certificate",
        /// Among the claims of its token, or of what a service says of it.
        Claim = "claim",
        /// In its user name.
        User = "user",
    }
}

choice! {
    /// What becomes of a client that has no tenant.
    pub enum WithoutTenant {
        /// It is not let in.
        Refuse = "refuse",
        /// It sees full names.
        Allow = "allow",
    }
}
