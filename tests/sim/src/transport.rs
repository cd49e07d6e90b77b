//! What a client needs of its TCP, whichever of the two models it is.

use smoltcp::socket::tcp::{Socket, State};

/// One connection.
pub trait Transport {
    /// Where it stands (RFC 9293 section 3.3.2).
    fn state(&self) -> State;
    /// Whether bytes can be read.
    fn can_recv(&self) -> bool;
    /// Reads bytes; says how many.
    fn recv(&mut self, out: &mut [u8]) -> usize;
    /// Whether our stream is open.
    fn may_send(&self) -> bool;
    /// Takes bytes to send; says how many.
    fn send(&mut self, bytes: &[u8]) -> usize;
    /// Ends our stream.
    fn close(&mut self);
    /// Resets the connection.
    fn abort(&mut self);
}

impl Transport for Socket<'static> {
    fn state(&self) -> State {
        Socket::state(self)
    }

    fn can_recv(&self) -> bool {
        Socket::can_recv(self)
    }

    fn recv(&mut self, out: &mut [u8]) -> usize {
        self.recv_slice(out).unwrap_or(0)
    }

    fn may_send(&self) -> bool {
        Socket::may_send(self)
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        self.send_slice(bytes).unwrap_or(0)
    }

    fn close(&mut self) {
        Socket::close(self);
    }

    fn abort(&mut self) {
        Socket::abort(self);
    }
}
