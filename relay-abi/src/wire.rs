//! A reader and a writer for the fixed, big-endian encoding of the messages between nodes.

use alloc::vec::Vec;

/// The input is shorter than the message says, or a field has a value that no sender writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads fields from the front of a byte slice.
#[derive(Clone, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader(bytes)
    }

    /// Bytes that were not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Fails when bytes are left over.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }

    /// The next `count` bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = tail;
        Ok(head)
    }

    /// A fixed-size array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (head, tail) = self.0.split_first_chunk::<N>().ok_or(Malformed)?;
        self.0 = tail;
        Ok(*head)
    }

    /// Bytes behind a 16-bit length.
    pub fn prefixed(&mut self) -> Result<&'a [u8], Malformed> {
        let count = self.u16()?;
        self.bytes(usize::from(count))
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A byte that is 0 or 1.
    pub fn bool(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }

    /// A 16-bit number.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_be_bytes)
    }

    /// A 32-bit number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// A 64-bit number.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.array().map(u64::from_be_bytes)
    }
}

/// Appends fields to a vector.
pub trait Writer {
    /// One byte.
    fn u8(&mut self, value: u8);
    /// Raw bytes.
    fn bytes(&mut self, bytes: &[u8]);

    /// 0 or 1.
    fn bool(&mut self, value: bool) {
        self.u8(value.into());
    }

    /// A 16-bit number.
    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    /// A 32-bit number.
    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_be_bytes());
    }

    /// A 64-bit number.
    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    /// Bytes behind a 16-bit length; longer input is a caller's bug and is cut.
    fn prefixed(&mut self, bytes: &[u8]) {
        let count = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(count);
        self.bytes(&bytes[..usize::from(count)]);
    }
}

impl Writer for Vec<u8> {
    fn u8(&mut self, value: u8) {
        self.push(value);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}
