//! What the kernel knows about an interface, asked through one packet socket.
//!
//! The socket stays in the network namespace that it was opened in, unlike a path below /sys, and
//! its questions take no lock that a busy control plane could hold for long. It also keeps the
//! interface in promiscuous mode: the kernel ends that with the socket, even if the process is
//! killed.

use super::Error;
use std::{
    ffi::c_int,
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `ioctl` request and command of ethtool(8)'s "show channels" (linux/ethtool.h).
const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
struct EthtoolChannels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// "Show the hash that spreads received frames" (`ethtool -x`), and what it says if that is Toeplitz'.
const ETHTOOL_GRSSH: u32 = 0x46;
const ETH_RSS_HASH_TOP: u8 = 1;

/// Most entries of the table, and most bytes of the key.
const SPREAD_TABLE_MAX: usize = 4096;
const SPREAD_KEY_MAX: usize = 256;

/// `struct ethtool_rxfh` (linux/ethtool.h), with room for what follows it: first the table, then the key.
#[repr(C)]
struct EthtoolRxfh {
    cmd: u32,
    rss_context: u32,
    table_len: u32,
    key_len: u32,
    hash: u8,
    input_xfrm: u8,
    reserved: [u8; 2],
    reserved_word: u32,
    table_then_key: [u32; SPREAD_TABLE_MAX + SPREAD_KEY_MAX / 4],
}

impl EthtoolRxfh {
    fn question(table_len: u32, key_len: u32) -> Box<EthtoolRxfh> {
        Box::new(EthtoolRxfh {
            cmd: ETHTOOL_GRSSH,
            rss_context: 0,
            table_len,
            key_len,
            hash: 0,
            input_xfrm: 0,
            reserved: [0; 2],
            reserved_word: 0,
            table_then_key: [0; SPREAD_TABLE_MAX + SPREAD_KEY_MAX / 4],
        })
    }

    /// The key and the table, if the kernel has filled them in and they mean what we know.
    fn answer(&self) -> Option<(Vec<u8>, Vec<u32>)> {
        let (table_len, key_len) = (self.table_len as usize, self.key_len as usize);
        // Some cards hash a transformed input: another hash, for us.
        if self.hash != ETH_RSS_HASH_TOP || self.input_xfrm != 0 {
            return None;
        }
        if table_len > SPREAD_TABLE_MAX || key_len > SPREAD_KEY_MAX {
            return None;
        }
        let (table, rest) = self.table_then_key.split_at(table_len);
        let key = rest.iter().flat_map(|word| word.to_ne_bytes()).take(key_len);
        Some((key.collect(), table.to_vec()))
    }
}

/// An open question channel to one interface.
pub(super) struct Link {
    socket: OwnedFd,
    name: String,
}

impl Link {
    pub(super) fn open(interface: &str) -> Result<Link, Error> {
        if interface.is_empty() || interface.len() >= libc::IFNAMSIZ || interface.contains('\0') {
            return Err(Error::UnknownInterface { interface: interface.to_owned() });
        }
        // Protocol 0: the socket receives nothing.
        // SAFETY: a plain system call.
        let socket =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(Error::NotPermitted { action: "open a packet socket" });
        }
        // SAFETY: a new descriptor that nothing else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        Ok(Link { socket, name: interface.to_owned() })
    }

    /// The hardware address.
    pub(super) fn mac(&self) -> Result<[u8; 6], Error> {
        let answer = self.ask(libc::SIOCGIFHWADDR, "read the hardware address")?;
        // SAFETY: SIOCGIFHWADDR fills in this field.
        let address = unsafe { answer.ifr_ifru.ifru_hwaddr };
        if address.sa_family != libc::ARPHRD_ETHER {
            return Err(Error::NotEthernet { interface: self.name.clone() });
        }
        Ok(std::array::from_fn(|i| address.sa_data[i] as u8))
    }

    /// The longest payload of a frame in bytes.
    pub(super) fn mtu(&self) -> Result<usize, Error> {
        let answer = self.ask(libc::SIOCGIFMTU, "read the MTU")?;
        // SAFETY: SIOCGIFMTU fills in this field.
        Ok(unsafe { answer.ifr_ifru.ifru_mtu }.max(0) as usize)
    }

    /// Whether the interface is up and its link usable (RFC 2863 `ifOperStatus` up).
    pub(super) fn is_running(&self) -> bool {
        let Ok(answer) = self.ask(libc::SIOCGIFFLAGS, "read the state") else { return false };
        // SAFETY: SIOCGIFFLAGS fills in this field.
        let flags = c_int::from(unsafe { answer.ifr_ifru.ifru_flags });
        flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0
    }

    /// The number of receive queues in use. A driver that cannot tell has one.
    pub(super) fn receive_queues(&self) -> Result<u32, Error> {
        let mut channels = EthtoolChannels { cmd: ETHTOOL_GCHANNELS, ..Default::default() };
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut channels).cast();
        match self.call(SIOCETHTOOL, &mut request) {
            Ok(()) => Ok((channels.rx_count + channels.combined_count).max(1)),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(1),
            Err(error) => Err(self.error("read the number of queues", error)),
        }
    }

    /// The key of the hash that spreads received frames, and the queue for each of its results; `None` if the
    /// driver does not say, or if it is not Toeplitz' hash.
    pub(super) fn spread(&self) -> Option<(Vec<u8>, Vec<u32>)> {
        // Without room the kernel tells how much there is to tell.
        let mut sizes = EthtoolRxfh::question(0, 0);
        self.ask_spread(&mut sizes)?;
        let (table, key) = (sizes.table_len as usize, sizes.key_len as usize);
        if table == 0 || key == 0 || table > SPREAD_TABLE_MAX || key > SPREAD_KEY_MAX {
            return None;
        }
        let mut answer = EthtoolRxfh::question(sizes.table_len, sizes.key_len);
        self.ask_spread(&mut answer)?;
        answer.answer()
    }

    fn ask_spread(&self, question: &mut EthtoolRxfh) -> Option<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (question as *mut EthtoolRxfh).cast();
        self.call(SIOCETHTOOL, &mut request).ok()
    }

    /// Makes the interface take in frames to every hardware address, such as the virtual one that
    /// the cluster shares. Ends with this struct.
    pub(super) fn set_promiscuous(&self) -> Result<(), Error> {
        let answer = self.ask(libc::SIOCGIFINDEX, "read the index")?;
        let membership = libc::packet_mreq {
            // SAFETY: SIOCGIFINDEX fills in this field.
            mr_ifindex: unsafe { answer.ifr_ifru.ifru_ifindex },
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: the option's value is a packet_mreq, given with its size.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast(),
                size_of_val(&membership) as u32,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(self.error("set the promiscuous mode", io::Error::last_os_error())),
        }
    }

    fn ask(&self, question: libc::c_ulong, action: &'static str) -> Result<libc::ifreq, Error> {
        let mut request = self.request();
        self.call(question, &mut request).map_err(|error| self.error(action, error))?;
        Ok(request)
    }

    fn call(&self, question: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: every question asked here takes an ifreq, and what an ifreq points to outlives
        // the call.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), question, request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: an ifreq is plain data, valid when all zero.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        // `open` made sure that the name fits and leaves room for the terminating zero.
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }

    fn error(&self, action: &'static str, source: io::Error) -> Error {
        let interface = self.name.clone();
        match source.raw_os_error() {
            Some(libc::ENODEV) => Error::UnknownInterface { interface },
            Some(libc::EPERM) => Error::NotPermitted { action },
            _ => Error::Link { interface, action, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_followed_by_the_key() {
        let mut answer = EthtoolRxfh::question(3, 5);
        answer.hash = ETH_RSS_HASH_TOP;
        answer.table_then_key[..3].copy_from_slice(&[7, 8, 9]);
        answer.table_then_key[3] = u32::from_ne_bytes([1, 2, 3, 4]);
        answer.table_then_key[4] = u32::from_ne_bytes([5, 6, 7, 8]);
        assert_eq!(answer.answer(), Some((vec![1, 2, 3, 4, 5], vec![7, 8, 9])));
        answer.input_xfrm = 1;
        assert_eq!(answer.answer(), None, "a symmetric hash is another one");
        (answer.input_xfrm, answer.hash) = (0, 2);
        assert_eq!(answer.answer(), None, "XOR is another one");
        (answer.hash, answer.table_len) = (ETH_RSS_HASH_TOP, u32::MAX);
        assert_eq!(answer.answer(), None, "nonsense");
    }
}
