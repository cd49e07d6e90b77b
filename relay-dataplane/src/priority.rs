//! The worker's place in the scheduler: a heartbeat that waits behind other processes is a false
//! alarm at every peer.

use rustix::process::setpriority_process;
use thread_priority::{
    Error, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// Priority under SCHED_FIFO: above every ordinary process, and below what a kernel or an operator
/// has set up with more thought (interrupt threads run at 50).
const REALTIME: u8 = 10;

/// What an ordinary thread can ask for at most, less what is left for the system's own.
const NICE: i32 = -15;

/// Raises the calling thread alone: to real time if `realtime`, else, or if that is refused, to
/// the front of the ordinary threads. Threads that it starts from now on would inherit it.
pub fn raise(realtime: bool) {
    if realtime {
        match set_realtime() {
            Ok(()) => return,
            Err(error) => tracing::warn!(
                %error,
                "this thread gets no real-time priority: it needs CAP_SYS_NICE, and a control group \
                 that may have it; a loaded machine may now delay it and look dead to its peers"
            ),
        }
    }
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::warn!(%error, "this thread runs at ordinary priority: it needs CAP_SYS_NICE");
    }
}

/// The same for a link between councils, whose threads come and go: refused or not, nothing is said,
/// since the control thread has said it.
pub fn raise_link(realtime: bool) {
    if !realtime || set_realtime().is_err() {
        let _ = setpriority_process(None, NICE);
    }
}

fn set_realtime() -> Result<(), Error> {
    let policy = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    set_thread_priority_and_policy(thread_native_id(), priority()?, policy)
}

fn priority() -> Result<ThreadPriority, Error> {
    let value = REALTIME.try_into().map_err(|_| Error::Priority("not below 100"))?;
    Ok(ThreadPriority::Crossplatform(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use thread_priority::thread_schedule_policy_param;

    #[test]
    fn only_the_calling_thread_is_raised() {
        let policy = || thread_schedule_policy_param(thread_native_id()).expect("own policy");
        let before = policy();
        let raised = std::thread::spawn(move || {
            raise(true);
            policy()
        });
        let (policy_of_worker, parameters) = raised.join().expect("the thread");
        let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
        // A machine may refuse it: then the thread is still an ordinary one.
        if policy_of_worker == fifo {
            assert_eq!(ThreadPriority::from_posix(parameters), priority().expect("in range"));
        } else {
            assert_eq!(policy_of_worker, before.0);
        }
        assert_eq!(policy().0, before.0);
    }
}
