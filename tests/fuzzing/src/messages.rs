//! Messages between nodes: what decodes is encoded as it came.

use relay_abi::peer::Message;

/// Decodes a message and encodes it again.
pub fn messages(data: &[u8]) {
    if let Ok(message) = Message::decode(data) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(bytes, data, "{message:?}");
    }
}
