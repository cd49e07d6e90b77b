//! IPv6 extension headers (RFC 8200 section 4) before a TCP segment: skipped within bounds.

use smoltcp::wire::IpProtocol;

use crate::reason::Reason;

/// Extension headers in one packet at most. RFC 8504 section 5.3 lets hosts set such limits.
const HEADERS_MAX: usize = 4;
/// Bytes of one extension header at most.
const HEADER_MAX: usize = 64;
/// What a receiver does with an option that it does not know: the option type's two highest bits;
/// zero is "skip" (RFC 8200 section 4.2).
const ACTION: u8 = 0xc0;

/// Finds what lies behind the hop-by-hop options, destination options and (used up) routing headers
/// at the begin of `bytes`, the first of which is of type `next`.
///
/// # Errors
/// `Fragment` for a fragment, `Malformed` for headers that are cut off, or that contain what may not
/// be skipped, `NotForUs` beyond the bounds.
pub(super) fn skip(mut next: IpProtocol, mut bytes: &[u8]) -> Result<(IpProtocol, &[u8]), Reason> {
    for _ in 0..=HEADERS_MAX {
        match next {
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts | IpProtocol::Ipv6Route => {}
            IpProtocol::Ipv6Frag => return Err(Reason::Fragment),
            _ => return Ok((next, bytes)),
        }
        let [after, words] = *bytes.first_chunk().ok_or(Reason::Malformed)?;
        let length = (usize::from(words) + 1) * 8;
        if length > HEADER_MAX {
            return Err(Reason::NotForUs);
        }
        let (header, rest) = bytes.split_at_checked(length).ok_or(Reason::Malformed)?;
        let is_harmless = match next {
            // Segments left (RFC 8200 section 4.4): we are no router on the way.
            IpProtocol::Ipv6Route => header[3] == 0,
            _ => may_skip(&header[2..]),
        };
        if !is_harmless {
            return Err(Reason::Malformed);
        }
        (next, bytes) = (IpProtocol::from(after), rest);
    }
    Err(Reason::NotForUs)
}

/// Whether none of the options demands that the packet be discarded by whoever does not know it.
fn may_skip(mut options: &[u8]) -> bool {
    /// Padding of one byte, which has no length.
    const PAD1: u8 = 0;
    while let Some((kind, rest)) = options.split_first() {
        if *kind == PAD1 {
            options = rest;
            continue;
        }
        let length = rest.first().map_or(usize::MAX, |length| usize::from(*length) + 1);
        match rest.get(length..) {
            Some(rest) if kind & ACTION == 0 => options = rest,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: [u8; 8] = [6, 0, 1, 2, 0, 0, 0, 0];

    #[test]
    fn rfc_8200_options_that_may_be_skipped_are() {
        let bytes = [&[60, 0, 5, 2, 0, 0, 1, 0][..], &OPTIONS[..], b"tcp"].concat();
        assert_eq!(skip(IpProtocol::HopByHop, &bytes), Ok((IpProtocol::Tcp, &b"tcp"[..])));
        assert_eq!(skip(IpProtocol::Tcp, b"tcp"), Ok((IpProtocol::Tcp, &b"tcp"[..])));
        let route = [6, 0, 4, 0, 0, 0, 0, 0];
        assert_eq!(skip(IpProtocol::Ipv6Route, &route), Ok((IpProtocol::Tcp, &b""[..])));
    }

    #[test]
    fn rfc_8200_what_must_not_be_skipped_is_refused() {
        let refuse = |next, bytes: &[u8]| skip(next, bytes).expect_err("must be refused");
        let unknown = [6, 0, 0x80, 2, 0, 0, 0, 0];
        assert_eq!(refuse(IpProtocol::Ipv6Opts, &unknown), Reason::Malformed);
        let not_there_yet = [6, 0, 4, 1, 0, 0, 0, 0];
        assert_eq!(refuse(IpProtocol::Ipv6Route, &not_there_yet), Reason::Malformed);
        let overlong = [6, 0, 5, 9, 0, 0, 0, 0];
        assert_eq!(refuse(IpProtocol::Ipv6Opts, &overlong), Reason::Malformed);
        assert_eq!(refuse(IpProtocol::Ipv6Frag, &OPTIONS), Reason::Fragment);
    }

    #[test]
    fn there_are_bounds() {
        let refuse = |bytes: &[u8]| skip(IpProtocol::Ipv6Opts, bytes).expect_err("too much");
        let mut chain = [60, 0, 1, 4, 0, 0, 0, 0].repeat(HEADERS_MAX + 1);
        assert_eq!(refuse(&chain), Reason::NotForUs);
        chain.truncate(5);
        assert_eq!(refuse(&chain), Reason::Malformed, "cut off");
        let mut large = vec![0; 256];
        (large[0], large[1]) = (6, (HEADER_MAX / 8) as u8);
        assert_eq!(refuse(&large), Reason::NotForUs);
    }
}
