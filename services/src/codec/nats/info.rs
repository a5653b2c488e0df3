//! INFO: what a server tells about itself.

use serde_json::Value;

use super::ProtocolError;

/// Addresses in [`Info::connect_urls`] that are kept. The others are dropped, so that a faulty server cannot make a client try
/// thousands of addresses.
pub const URLS_MAX: usize = 64;

/// The description of a server, from INFO. Unknown fields are ignored, and missing fields have the values of a server that does not
/// know the fields.
///
/// ```
/// use services::codec::nats::Info;
/// let info = Info::parse(br#"{"server_id":"NA","version":"2.9.10","max_payload":1048576,"headers":true}"#)?;
/// assert_eq!((info.version_numbers(), info.max_payload, info.headers), (Some((2, 9, 10)), 1_048_576, true));
/// # Ok::<(), services::codec::nats::ProtocolError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The id of the server process, which no other server has; a restart changes it.
    pub server_id: String,
    /// The server's name; the id, unless the operator has chosen a name.
    pub server_name: String,
    /// The version of nats-server, such as `2.9.10`.
    pub version: String,
    /// The number of this connection at the server.
    pub client_id: u64,
    /// Most bytes of a message's headers and payload together.
    pub max_payload: usize,
    /// Whether messages may have headers (HPUB, HMSG).
    pub headers: bool,
    /// Whether the server has JetStream. A server without JetStream may belong to a cluster that has JetStream.
    pub jetstream: bool,
    /// Whether the server refuses clients without a login: a user, a token or a key.
    pub auth_required: bool,
    /// Whether a client has to begin a TLS handshake after INFO.
    pub tls_required: bool,
    /// A client may begin a TLS handshake after INFO.
    pub tls_available: bool,
    /// A challenge is included, to be signed by clients that have a key (NKEY).
    pub has_nonce: bool,
    /// The server is going to stop soon (lame duck mode), and asks clients to connect to another server.
    pub ldm: bool,
    /// Addresses of the cluster's servers, `host:port`; at most [`URLS_MAX`].
    pub connect_urls: Vec<String>,
}

impl Info {
    /// Reads the JSON text of INFO.
    ///
    /// # Errors
    /// [`ProtocolError::Malformed`] for a text that is no JSON object, and for an object without `max_payload`.
    pub fn parse(json: &[u8]) -> Result<Self, ProtocolError> {
        let fields: Value = serde_json::from_slice(json).map_err(|_| ProtocolError::Malformed("INFO is no JSON"))?;
        if !fields.is_object() {
            return Err(ProtocolError::Malformed("INFO is no JSON object"));
        }
        let is = |name: &str| fields[name].as_bool().unwrap_or_default();
        let text = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
        let max_payload = fields["max_payload"].as_u64().and_then(|most| usize::try_from(most).ok());
        let urls = fields["connect_urls"].as_array().map_or(&[][..], Vec::as_slice);
        Ok(Info {
            server_id: text("server_id"),
            server_name: text("server_name"),
            version: text("version"),
            client_id: fields["client_id"].as_u64().unwrap_or_default(),
            max_payload: max_payload.ok_or(ProtocolError::Malformed("INFO has no max_payload"))?,
            headers: is("headers"),
            jetstream: is("jetstream"),
            auth_required: is("auth_required"),
            tls_required: is("tls_required"),
            tls_available: is("tls_available"),
            has_nonce: fields["nonce"].as_str().is_some_and(|nonce| !nonce.is_empty()),
            ldm: is("ldm"),
            connect_urls: urls.iter().filter_map(Value::as_str).take(URLS_MAX).map(str::to_owned).collect(),
        })
    }

    /// The numbers of [`Info::version`]: major, minor, patch. `None` for a version of another form.
    pub fn version_numbers(&self) -> Option<(u32, u32, u32)> {
        let plain = self.version.split(['-', '+']).next()?;
        let mut numbers = plain.split('.').map(|number| number.parse().ok());
        Some((numbers.next()??, numbers.next()??, numbers.next()??))
    }
}
