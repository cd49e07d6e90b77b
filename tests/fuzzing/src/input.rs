//! Bytes as choices.

/// Reads choices from the front of the input; an input that is used up says zero.
#[derive(Debug)]
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    pub fn u16(&mut self) -> u16 {
        u16::from(self.u8()) << 8 | u16::from(self.u8())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) << 16 | u32::from(self.u16())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) << 32 | u64::from(self.u32())
    }

    pub fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// Small as a rule, of either sign, and sometimes anything.
    pub fn distance(&mut self) -> i64 {
        match self.u8() {
            0..=127 => 0,
            128..=191 => i64::from(self.u8() as i8),
            192..=247 => i64::from(self.u16() as i16),
            _ => i64::from(self.u32() as i32),
        }
    }
}
