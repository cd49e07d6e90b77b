//! Why an input was dropped or refused. Counters are indexed by this enum, so that every
//! discarded frame is visible to the operator under exactly one name.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why an input was dropped or refused (alphabetical).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Reason { $($(#[$doc])* $name,)* }

        impl Reason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// The name under which the counter is shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// More connections came than `limits.accepts_per_s` lets in; the client tries again.
    AcceptLimited = "accept_limited",
    /// The ACK number lies outside of what the peer can know (RFC 5961 section 5).
    AckUnacceptable = "ack_unacceptable",
    /// The IP, TCP or UDP checksum is wrong.
    BadChecksum = "bad_checksum",
    /// A SYN cookie did not verify.
    CookieInvalid = "cookie_invalid",
    /// The flow table is full.
    FlowTableFull = "flow_table_full",
    /// An IP fragment; fragments of TCP segments are never reassembled.
    Fragment = "fragment",
    /// A frame that came during a handover and did not reach the next owner: too many were kept, or it never
    /// said that it owns. Its sender repeats it.
    HandedNowhere = "handed_nowhere",
    /// An ICMP error that quotes no segment which is under way (RFC 5927 section 4.1).
    IcmpUnacceptable = "icmp_unacceptable",
    /// A segment of ours did not arrive, says an ICMP error; it is sent again.
    IcmpUnreachable = "icmp_unreachable",
    /// The header is shorter than its length fields say, or a field has an impossible value.
    Malformed = "malformed",
    /// Not for one of our addresses, or a protocol that is not handled.
    NotForUs = "not_for_us",
    /// This node does not own the bucket.
    NotOwner = "not_owner",
    /// The sequence number lies outside of the receive window (RFC 9293 section 3.10.7.4).
    OutOfWindow = "out_of_window",
    /// Bytes that came before in another form; what came first counts.
    OverlapInconsistent = "overlap_inconsistent",
    /// The timestamp is older than the last one (PAWS, RFC 7323 section 5).
    PawsRejected = "paws_rejected",
    /// A cluster datagram that does not authenticate.
    PeerAuthentication = "peer_authentication",
    /// A cluster datagram or message that does not decode.
    PeerMalformed = "peer_malformed",
    /// A cluster datagram that was seen before, or is older than the replay window.
    PeerReplay = "peer_replay",
    /// A cluster message of a term that is over (rule 6).
    PeerStaleTerm = "peer_stale_term",
    /// A cluster datagram of a relay with which no key was agreed on yet: there is no council link.
    PeerUnkeyed = "peer_unkeyed",
    /// A cluster datagram in another version than the one that is spoken with its sender.
    PeerVersion = "peer_version",
    /// A plain HTTP request on the TLS port.
    PlainHttp = "plain_http",
    /// No free source port toward this backend in this bucket.
    PortExhausted = "port_exhausted",
    /// An RST in the window but not at the exact sequence number (RFC 5961 section 3).
    RstChallenged = "rst_challenged",
    /// A SYN on a synchronized connection (RFC 5961 section 4).
    SynChallenged = "syn_challenged",
    /// A TLS record does not authenticate.
    TlsBadMac = "tls_bad_mac",
    /// A TLS handshake failed: nothing in common, an unknown server name, or a protocol error.
    TlsHandshake = "tls_handshake",
    /// Not a TLS record, or one that cannot come here.
    TlsMalformed = "tls_malformed",
    /// The configuration in force, or that of a handshake, is not held here.
    UnknownConfiguration = "unknown_configuration",
    /// No listener on this address and port.
    UnknownFlow = "unknown_flow",
    /// More data than the receive buffer has room for.
    WindowExceeded = "window_exceeded",
}

/// Number of counters.
pub const REASONS: usize = Reason::ALL.len();

/// One counter for each [`Reason`].
#[derive(Clone, Debug)]
pub struct Counters([u64; REASONS]);

impl Default for Counters {
    fn default() -> Self {
        Counters([0; REASONS])
    }
}

impl Counters {
    /// Counts one input that was dropped for `reason`.
    pub fn count(&mut self, reason: Reason) {
        self.0[reason as usize] += 1;
    }

    /// Adds what others counted.
    pub fn add(&mut self, others: &Counters) {
        self.0.iter_mut().zip(others.0).for_each(|(sum, more)| *sum += more);
    }

    /// How many inputs were dropped for `reason`.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// Name and value of every counter.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Reason::ALL.iter().map(|reason| (reason.as_str(), self.get(*reason)))
    }
}
