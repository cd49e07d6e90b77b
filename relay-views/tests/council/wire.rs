//! Bytes from the network: nothing makes a council panic.

use relay_views::council::wire::Parcel;
use relay_views::id::NodeId;

use crate::world::{MILLI, Rng, World};

/// Messages of a small world, and each with some bytes changed, go to a live council.
#[test]
fn changed_messages_are_refused_or_harmless() {
    let mut rng = Rng(1);
    for seed in 0..40 {
        let mut world = World::new(seed, 3, 1, 4);
        world.mangle = Some(rng);
        world.run_for(MILLI * 600);
        rng = world.mangle.unwrap();
    }
}

#[test]
fn noise_is_malformed() {
    let mut rng = Rng(2);
    for _ in 0..20_000 {
        let length = rng.below(120) as usize;
        let mut bytes: Vec<u8> = (0..length).map(|_| rng.draw() as u8).collect();
        if let Some(first) = bytes.first_mut() {
            *first = 1 + (*first & 1);
        }
        if let Ok(parcel) = Parcel::decode(&bytes) {
            assert_eq!(Parcel::decode(&parcel.encode()), Ok(parcel));
        }
    }
    assert!(Parcel::decode(&[1]).is_err() && NodeId(1) < NodeId(2));
}
