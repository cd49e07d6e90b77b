//! Segments as a script writes them, and as bytes.

use core::ops::Range;

use relay_core::frame::{EthernetAddress, IpAddress, TcpRepr, Tuple};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpSeqNumber,
};

use crate::script::{number, range};

/// The flags in the order of their bits (RFC 9293 section 3.1).
const FLAGS: [char; 8] = ['F', 'S', 'R', 'P', '.', 'U', 'E', 'C'];
const ETHERNET: usize = 14;
const TCP: usize = 20;

/// A segment; what is None is not said. Sequence numbers are relative to the SYN of their side.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fields {
    /// Letters of [`FLAGS`].
    pub flags: String,
    pub seq: i64,
    pub length: usize,
    pub ack: Option<i64>,
    pub window: Option<u16>,
    pub urgent: u16,
    pub options: Option<Vec<Opt>>,
    /// The payload, if it is not the pattern of the stream.
    pub literal: Option<Vec<u8>>,
    pub bad_checksum: bool,
}

/// A TCP option.
#[derive(Clone, Debug, PartialEq)]
pub enum Opt {
    Mss(u16),
    Scale(u8),
    SackPermitted,
    /// Our timestamp is of no interest where none is given; the echo is that of the last segment
    /// that came where none is given.
    Timestamp(Option<u32>, Option<u32>),
    Sack(Vec<Range<i64>>),
    Raw(Vec<u8>),
}

/// How relative sequence numbers become those of the wire.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    /// Of the side that sends.
    pub own: u32,
    /// Of the other side.
    pub other: u32,
    /// What an echo without a value is.
    pub last_timestamp: u32,
}

/// Bytes that tell their own position in a stream.
pub fn pattern(from: i64, length: usize) -> Vec<u8> {
    (from..from + length as i64).map(|i| (i ^ i >> 8 ^ i >> 16) as u8).collect()
}

/// Reads `P. 1:1001(1000) ack 1 win 500 <options> "payload"`.
pub fn parse_fields(text: &str) -> Result<Fields, String> {
    let mut fields = Fields::default();
    let mut rest = text.trim();
    let next = |rest: &mut &str| {
        let trimmed = rest.trim_start();
        let end = trimmed.find(char::is_whitespace).unwrap_or(trimmed.len());
        let (word, tail) = trimmed.split_at(end);
        *rest = tail.trim_start();
        word.to_owned()
    };
    fields.flags = next(&mut rest);
    if !fields.flags.chars().all(|flag| FLAGS.contains(&flag) || flag == '-') {
        return Err(format!("unknown flags {:?}", fields.flags));
    }
    while !rest.is_empty() {
        if let Some(options) = rest.strip_prefix('<') {
            let (options, tail) = options.split_once('>').ok_or("options without an end")?;
            fields.options = Some(parse_options(options)?);
            rest = tail.trim_start();
            continue;
        }
        if let Some(literal) = rest.strip_prefix('"') {
            let (literal, tail) = literal.split_once('"').ok_or("a payload without an end")?;
            fields.literal = Some(literal.as_bytes().to_vec());
            fields.length = literal.len();
            rest = tail.trim_start();
            continue;
        }
        match next(&mut rest).as_str() {
            "seq" => fields.seq = number(&next(&mut rest))?,
            "ack" => fields.ack = Some(number(&next(&mut rest))?),
            "win" => fields.window = Some(number(&next(&mut rest))?),
            "urg" => fields.urgent = number(&next(&mut rest))?,
            "bad-checksum" => fields.bad_checksum = true,
            word => parse_extent(&mut fields, word)?,
        }
    }
    Ok(fields)
}

/// `1:1001(1000)`.
fn parse_extent(fields: &mut Fields, word: &str) -> Result<(), String> {
    let (extent, length) = word.split_once('(').ok_or_else(|| format!("what is {word}?"))?;
    let extent = range(extent)?;
    let length: usize = number(length.trim_end_matches(')'))?;
    if extent.end - extent.start != length as i64 {
        return Err(format!("{word}: the length is another"));
    }
    (fields.seq, fields.length) = (extent.start, length);
    Ok(())
}

fn parse_options(text: &str) -> Result<Vec<Opt>, String> {
    let value = |word: &str| match word {
        "any" | "last" => Ok(None),
        word => number(word).map(Some),
    };
    text.split(',')
        .filter(|option| !option.trim().is_empty())
        .map(|option| {
            let words: Vec<&str> = option.split_whitespace().collect();
            Ok(match words[..] {
                ["mss", bytes] => Opt::Mss(number(bytes)?),
                ["wscale", shift] => Opt::Scale(number(shift)?),
                ["sackOK"] => Opt::SackPermitted,
                ["TS", "val", val, "ecr", ecr] => Opt::Timestamp(value(val)?, value(ecr)?),
                ["sack", ref blocks @ ..] => {
                    Opt::Sack(blocks.iter().map(|block| range(block)).collect::<Result<_, _>>()?)
                }
                ["hex", ref bytes @ ..] => {
                    let byte = |byte: &&str| u8::from_str_radix(byte, 16);
                    let bytes = bytes.iter().map(byte).collect::<Result<_, _>>();
                    Opt::Raw(bytes.map_err(|error| error.to_string())?)
                }
                _ => return Err(format!("unknown option {option:?}")),
            })
        })
        .collect()
}

impl Fields {
    /// What travels in the segment.
    pub fn payload(&self) -> Vec<u8> {
        self.literal.clone().unwrap_or_else(|| pattern(self.seq - 1, self.length))
    }

    /// The whole frame, from the remote end of `tuple` to the local one.
    pub fn frame(&self, tuple: &Tuple, numbers: Numbers) -> Vec<u8> {
        let payload = self.payload();
        let options = self.option_bytes(numbers);
        let (from, to) = (tuple.remote.addr, tuple.local.addr);
        let length = TCP + options.len() + payload.len();
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, length, 64);
        let mut frame = vec![0; ETHERNET + ip.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
        ethernet.set_src_addr(EthernetAddress([2, 0, 0, 0, 0, 2]));
        ethernet.set_dst_addr(EthernetAddress([2, 0, 0, 0, 0, 1]));
        ethernet.set_ethertype(match from {
            IpAddress::Ipv4(_) => EthernetProtocol::Ipv4,
            IpAddress::Ipv6(_) => EthernetProtocol::Ipv6,
        });
        let packet = &mut frame[ETHERNET..];
        ip.emit(&mut *packet, &ChecksumCapabilities::default());
        let tcp = &mut packet[ip.header_len()..];
        tcp[0..2].copy_from_slice(&tuple.remote.port.to_be_bytes());
        tcp[2..4].copy_from_slice(&tuple.local.port.to_be_bytes());
        tcp[4..8].copy_from_slice(&numbers.own.wrapping_add(self.seq as u32).to_be_bytes());
        let ack = self.ack.map_or(0, |ack| numbers.other.wrapping_add(ack as u32));
        tcp[8..12].copy_from_slice(&ack.to_be_bytes());
        tcp[12] = ((TCP + options.len()) as u8 / 4) << 4;
        tcp[13] = (0..8).filter(|bit| self.flags.contains(FLAGS[*bit])).map(|bit| 1 << bit).sum();
        tcp[14..16].copy_from_slice(&self.window.unwrap_or(0).to_be_bytes());
        tcp[18..20].copy_from_slice(&self.urgent.to_be_bytes());
        tcp[TCP..TCP + options.len()].copy_from_slice(&options);
        tcp[TCP + options.len()..].copy_from_slice(&payload);
        TcpPacket::new_unchecked(&mut *tcp).fill_checksum(&from, &to);
        if self.bad_checksum {
            tcp[16] ^= 1;
        }
        frame
    }

    fn option_bytes(&self, numbers: Numbers) -> Vec<u8> {
        let mut bytes = Vec::new();
        for option in self.options.iter().flatten() {
            match option {
                Opt::Mss(mss) => {
                    bytes.extend([2, 4]);
                    bytes.extend(mss.to_be_bytes());
                }
                Opt::Scale(shift) => bytes.extend([3, 3, *shift]),
                Opt::SackPermitted => bytes.extend([4, 2]),
                Opt::Timestamp(value, echo) => {
                    bytes.extend([8, 10]);
                    bytes.extend(value.unwrap_or(0).to_be_bytes());
                    bytes.extend(echo.unwrap_or(numbers.last_timestamp).to_be_bytes());
                }
                Opt::Sack(blocks) => {
                    bytes.extend([5, 2 + 8 * blocks.len() as u8]);
                    for edge in blocks.iter().flat_map(|block| [block.start, block.end]) {
                        bytes.extend(numbers.other.wrapping_add(edge as u32).to_be_bytes());
                    }
                }
                Opt::Raw(raw) => bytes.extend(raw),
            }
        }
        bytes.resize(bytes.len().next_multiple_of(4), 1);
        bytes
    }

    /// The fields of a segment that has left.
    pub fn of(segment: &TcpRepr, numbers: Numbers) -> Fields {
        let relative = |number: TcpSeqNumber, initial: u32| {
            i64::from((number.0 as u32).wrapping_sub(initial) as i32)
        };
        let mut flags = match segment.control {
            TcpControl::None => "",
            TcpControl::Psh => "P",
            TcpControl::Syn => "S",
            TcpControl::Fin => "F",
            TcpControl::Rst => "R",
        }
        .to_owned();
        if segment.ack_number.is_some() {
            flags.push('.');
        }
        let block = |(left, right): (u32, u32)| {
            let edge = |edge: u32| relative(TcpSeqNumber(edge as i32), numbers.other);
            edge(left)..edge(right)
        };
        let blocks: Vec<_> = segment.sack_ranges.into_iter().flatten().map(block).collect();
        let timestamp = segment.timestamp.map(|t| Opt::Timestamp(Some(t.tsval), Some(t.tsecr)));
        let options = [
            segment.max_seg_size.map(Opt::Mss),
            segment.window_scale.map(Opt::Scale),
            segment.sack_permitted.then_some(Opt::SackPermitted),
            timestamp,
            (!blocks.is_empty()).then_some(Opt::Sack(blocks)),
        ];
        Fields {
            flags,
            seq: relative(segment.seq_number, numbers.own),
            length: segment.payload.len(),
            ack: segment.ack_number.map(|ack| relative(ack, numbers.other)),
            window: Some(segment.window_len),
            options: Some(options.into_iter().flatten().collect()),
            literal: Some(segment.payload.to_vec()),
            ..Fields::default()
        }
    }

    /// Whether this segment is what `expected` says, as far as it says something.
    pub fn satisfies(&self, expected: &Fields) -> bool {
        // Where a write ends is nobody's business, unless the script says so.
        let flags = |fields: &Fields| fields.flags.replace(['P', '-'], "");
        let pushed = !expected.flags.contains('P') || self.flags.contains('P');
        let same_place = (self.seq, self.length) == (expected.seq, expected.length);
        let ack = expected.ack.is_none() || self.ack == expected.ack;
        let window = expected.window.is_none() || self.window == expected.window;
        let same_flags = flags(self) == flags(expected) && pushed;
        same_flags && same_place && ack && window && self.has_options_of(expected)
    }

    /// Without options in the script, only blocks are news.
    fn has_options_of(&self, expected: &Fields) -> bool {
        let own = self.options.as_deref().unwrap_or_default();
        match &expected.options {
            None => !own.iter().any(|option| matches!(option, Opt::Sack(_))),
            Some(wanted) => {
                wanted.len() == own.len()
                    && wanted.iter().all(|wanted| own.iter().any(|own| own.is(wanted)))
            }
        }
    }
}

impl Opt {
    fn is(&self, wanted: &Opt) -> bool {
        match (self, wanted) {
            (Opt::Timestamp(value, echo), Opt::Timestamp(wanted_value, wanted_echo)) => {
                (wanted_value.is_none() || value == wanted_value)
                    && (wanted_echo.is_none() || echo == wanted_echo)
            }
            _ => self == wanted,
        }
    }
}

impl core::fmt::Display for Fields {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let flags = if self.flags.is_empty() { "-" } else { &self.flags };
        let (seq, end) = (self.seq, self.seq + self.length as i64);
        write!(f, "{flags} {seq}:{end}({})", self.length)?;
        if let Some(ack) = self.ack {
            write!(f, " ack {ack}")?;
        }
        if let Some(window) = self.window {
            write!(f, " win {window}")?;
        }
        let Some(options) = &self.options else { return Ok(()) };
        let text: Vec<String> = options.iter().map(ToString::to_string).collect();
        write!(f, " <{}>", text.join(","))
    }
}

impl core::fmt::Display for Opt {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let any = |value: &Option<u32>| value.map_or("any".to_owned(), |value| value.to_string());
        match self {
            Opt::Mss(mss) => write!(f, "mss {mss}"),
            Opt::Scale(shift) => write!(f, "wscale {shift}"),
            Opt::SackPermitted => write!(f, "sackOK"),
            Opt::Timestamp(value, echo) => write!(f, "TS val {} ecr {}", any(value), any(echo)),
            Opt::Sack(blocks) => {
                write!(f, "sack")?;
                blocks.iter().try_for_each(|block| write!(f, " {}:{}", block.start, block.end))
            }
            Opt::Raw(bytes) => write!(f, "hex {bytes:02x?}"),
        }
    }
}
