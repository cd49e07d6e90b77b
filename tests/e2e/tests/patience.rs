//! Ends that take their time, while relays are lost one after the other.

use std::io::{Read, Write};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::client::Client;
use e2e::conversation::Conversation;
use e2e::{Fixture, How, Options};

/// More than all buffers between the ends hold.
const LENGTH: usize = 16 << 20;

/// One byte after another, each after a pause of this length.
const STEPS: usize = 4;
const STEP: Duration = Duration::from_secs(1);

fn begin(lab: &Fixture) -> Conversation {
    let listener = lab.backend_listener().unwrap();
    Conversation::accept(&listener, Client::raw(lab, false, "1.3").unwrap()).unwrap()
}

fn lose_and_bring_back(lab: &mut Fixture) -> Result<()> {
    let (lost, _) = lab.lose_owner(How::Sigkill)?;
    lab.bring_back(&lost)
}

/// What is streamed: no two places of it look alike.
fn content() -> Vec<u8> {
    (0..LENGTH as u32 / 4).flat_map(|i| i.wrapping_mul(2_654_435_761).to_be_bytes()).collect()
}

#[test]
fn a_client_of_a_byte_per_second_outlives_two_relays() {
    let mut lab = Fixture::up(&Options::default()).unwrap();
    let mut talk = begin(&lab);
    let content = content();
    let mut output = talk.client.take_output().unwrap();
    thread::scope(|scope| {
        let server = &talk.server;
        let sender = scope.spawn(|| (&mut &*server).write_all(&content));
        let mut read = vec![0; LENGTH];
        let mut at = 0;
        for _ in 0..2 {
            for _ in 0..STEPS {
                sleep(STEP);
                output.read_exact(&mut read[at..=at]).unwrap();
                at += 1;
                talk.client.send(b"x").unwrap();
            }
            lose_and_bring_back(&mut lab).unwrap();
        }
        output.read_exact(&mut read[at..]).unwrap();
        sender.join().unwrap().unwrap();
        assert!(read == content, "the streams differ");
    });
    talk.client.give_back(None, Some(output));
    talk.hear(&[b'x'; 2 * STEPS]).unwrap();
    talk.end().unwrap();
}

#[test]
fn a_backend_that_does_not_read_outlives_two_relays() {
    let mut lab = Fixture::up(&Options::default()).unwrap();
    let mut talk = begin(&lab);
    let content = content();
    let mut input = talk.client.take_input().unwrap();
    let result = thread::scope(|scope| -> Result<()> {
        let sender = scope.spawn(|| input.write_all(&content).map(|()| input));
        for _ in 0..2 {
            sleep(STEP * STEPS as u32);
            lose_and_bring_back(&mut lab)?;
        }
        ensure!(!sender.is_finished(), "the buffers hold {LENGTH} bytes: send more");
        let mut read = vec![0; LENGTH];
        talk.server.read_exact(&mut read).context("the server's side")?;
        ensure!(read == content, "the streams differ");
        let input = sender.join().map_err(|_| anyhow::anyhow!("the client is lost"))??;
        talk.client.give_back(Some(input), None);
        Ok(())
    });
    result.unwrap();
    talk.exchange().unwrap();
    talk.end().unwrap();
}
