//! Before the process's `main`: reads the variables, takes them away, and begins to record.

use powercut::recorder::Recorder;
use powercut::{END_AT_VARIABLE, EXIT_JOURNAL_FAILED, FORGET_SYNCS_VARIABLE, JOURNAL_VARIABLE, ROOT_VARIABLE, call};
use std::env;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::OnceLock;

const BOOT_ID: &CStr = c"/proc/sys/kernel/random/boot_id";

static RECORDER: OnceLock<Recorder> = OnceLock::new();
static OWN_BOOT_ID: OnceLock<CString> = OnceLock::new();

pub fn recorder() -> Option<&'static Recorder> {
    RECORDER.get()
}

/// A power cut starts the machine anew: the process sees the journal's boot id instead of the machine's.
pub fn boot_id_instead_of(path: &CStr) -> Option<&'static CStr> {
    if path == BOOT_ID { OWN_BOOT_ID.get().map(CString::as_c_str) } else { None }
}

/// The loader runs this once, on the one thread that there is.
extern "C" fn start() {
    let (Some(journal), Some(root)) = (env::var_os(JOURNAL_VARIABLE), env::var_os(ROOT_VARIABLE)) else { return };
    let forget_syncs = env::var_os(FORGET_SYNCS_VARIABLE).is_some_and(|value| value == "1");
    let end_at = env::var(END_AT_VARIABLE).ok().and_then(|value| value.parse().ok());
    for name in ["LD_PRELOAD", JOURNAL_VARIABLE, ROOT_VARIABLE, FORGET_SYNCS_VARIABLE, END_AT_VARIABLE] {
        // SAFETY: no other thread has begun.
        unsafe { env::remove_var(name) };
    }
    match Recorder::open(&PathBuf::from(journal), &PathBuf::from(root), forget_syncs) {
        Ok(recorder) => {
            if let Ok(path) = CString::new(recorder.boot_id().into_os_string().into_vec()) {
                let _ = OWN_BOOT_ID.set(path);
            }
            if let Some(operations) = end_at {
                recorder.end_at(operations);
            }
            let _ = RECORDER.set(recorder);
        }
        Err(error) => {
            let message = format!("powercut: nothing can be recorded: {error}\n");
            call!(SYS_write, 2, message.as_ptr(), message.len());
            call!(SYS_exit_group, EXIT_JOURNAL_FAILED);
        }
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;
