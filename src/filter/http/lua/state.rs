//! Scripts, and the interpreters that run them: one for each thread and script, with a limit on what
//! it may do at a time and how much it may hold.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use causeway_xds::proto::core::DataSource;
use causeway_xds::reject::{FieldPath, Invalid};
use causeway_xds::resource::parts;
use mlua::chunk::ChunkMode;
use mlua::{
    Error, Function, HookTriggers, Lua, LuaOptions, LuaString, Result, StdLib, Table, Value,
    VmState,
};

use super::facts;
use crate::formatter::Wants;

/// Bytes of a script at most.
const MAX_SCRIPT: usize = 1 << 20;
/// Bytes that an interpreter may hold.
const MAX_MEMORY: usize = 64 << 20;
/// Instructions between two looks at how many there were.
const STEP: u32 = 1_000;
/// Steps of a script at a time: until it waits or ends. Ten million instructions are about a tenth of
/// a second, in which the thread does nothing else.
const MAX_STEPS: u32 = 10_000;
/// What a script is told then.
const OVER: &str = "the script has run for too long";
/// How the script is called in faults.
const SCRIPT: &str = "script";

const PRELUDE: &str = include_str!("prelude.lua");

/// A script that an interpreter has taken.
pub struct Script {
    source: Vec<u8>,
    pub on_request: bool,
    pub on_response: bool,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.source.len();
        f.debug_struct("Script")
            .field("length", &length)
            .finish_non_exhaustive()
    }
}

impl Script {
    /// # Errors
    /// It cannot be read, is no script, or fails when its functions are defined.
    pub fn load(message: DataSource) -> std::result::Result<Arc<Self>, Invalid> {
        Self::compile(parts::data(message, MAX_SCRIPT)?)
    }

    /// # Errors
    /// As [`Self::load`].
    pub fn compile(source: Vec<u8>) -> std::result::Result<Arc<Self>, Invalid> {
        let state =
            State::new(&source).map_err(|error| Invalid::new(FieldPath::root(), told(&error)))?;
        Ok(Arc::new(Self {
            source,
            on_request: state.on_request.is_some(),
            on_response: state.on_response.is_some(),
        }))
    }

    /// What of a request has to be kept for it: what belongs to the methods that it names.
    pub fn note(&self, wants: &mut Wants) {
        facts::note(&self.source, wants);
    }

    /// The interpreter of this thread.
    ///
    /// # Errors
    /// It cannot be made any more.
    pub fn state(self: &Arc<Self>) -> Result<Rc<State>> {
        STATES.with(|states| {
            let mut states = states.borrow_mut();
            let key = Arc::as_ptr(self).addr();
            if let Some((_, state)) = states.get(&key) {
                return Ok(Rc::clone(state));
            }
            // Scripts come with configuration: then those that are gone are forgotten.
            states.retain(|_, (script, _)| script.strong_count() > 0);
            let state = Rc::new(State::new(&self.source)?);
            states.insert(key, (Arc::downgrade(self), Rc::clone(&state)));
            Ok(state)
        })
    }

    /// The next one has an interpreter of its own again.
    pub fn forget(self: &Arc<Self>) {
        let key = Arc::as_ptr(self).addr();
        STATES.with(|states| states.borrow_mut().remove(&key));
    }
}

type States = HashMap<usize, (Weak<Script>, Rc<State>)>;

thread_local! {
    /// By the address of the script, which is not another's as long as it is known here.
    static STATES: RefCell<States> = RefCell::default();
}

/// An interpreter that has run a script, so that its functions are there.
pub struct State {
    pub lua: Lua,
    /// Runs a function of the script as the body of a coroutine.
    pub enter: Function,
    pub on_request: Option<Function>,
    pub on_response: Option<Function>,
    left: Rc<Cell<u32>>,
}

impl State {
    fn new(source: &[u8]) -> Result<Self> {
        let libraries = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::OS
            | StdLib::STRING
            | StdLib::BIT
            | StdLib::MATH;
        let lua = Lua::new_with(libraries, LuaOptions::default())?;
        lua.set_memory_limit(MAX_MEMORY)?;
        let left = Rc::new(Cell::new(MAX_STEPS));
        let steps = Rc::clone(&left);
        lua.set_global_hook(
            HookTriggers::new().every_nth_instruction(STEP),
            move |_, _| {
                spend(&steps)?;
                Ok(VmState::Continue)
            },
        )?;
        let enter = lua
            .load(PRELUDE)
            .set_name("=prelude")
            .set_mode(ChunkMode::Text)
            .call(native(&lua, &left)?)?;
        lua.load(source)
            .set_name(format!("={SCRIPT}"))
            .set_mode(ChunkMode::Text)
            .exec()?;
        let globals = lua.globals();
        let function = |name: &str| match globals.get(name)? {
            Value::Function(function) => Ok(Some(function)),
            Value::Nil => Ok(None),
            _ => Err(Error::runtime(format!("{name} is no function"))),
        };
        Ok(Self {
            on_request: function("envoy_on_request")?,
            on_response: function("envoy_on_response")?,
            enter,
            left,
            lua,
        })
    }

    /// A script may run again for as long as it may at a time.
    pub fn refill(&self) {
        self.left.set(MAX_STEPS);
    }
}

fn spend(left: &Cell<u32>) -> Result<()> {
    match left.get().checked_sub(1) {
        Some(fewer) => {
            left.set(fewer);
            Ok(())
        }
        None => Err(Error::runtime(OVER)),
    }
}

/// What the prelude is made with.
fn native(lua: &Lua, left: &Rc<Cell<u32>>) -> Result<Table> {
    let table = lua.create_table()?;
    table.set("OVER", OVER)?;
    table.set(
        "FACTS",
        lua.create_sequence_from(facts::names(&facts::PLAIN))?,
    )?;
    table.set(
        "SSL_FACTS",
        lua.create_sequence_from(facts::names(&facts::SSL))?,
    )?;
    table.set(
        "SSL_LISTS",
        lua.create_sequence_from(facts::names(&facts::SSL_LISTS))?,
    )?;
    let steps = Rc::clone(left);
    let spend = lua.create_function(move |_, ()| spend(&steps))?;
    table.set("spend", spend)?;
    let steps = Rc::clone(left);
    let is_over = lua.create_function(move |_, ()| Ok(steps.get() == 0))?;
    table.set("is_over", is_over)?;
    let told = lua.create_function(|lua, value: Value| match value {
        Value::Error(error) => Ok(Value::String(lua.create_string(told(&error))?)),
        other => Ok(other),
    })?;
    table.set("told", told)?;
    let memory = lua.create_function(|lua, ()| Ok(lua.used_memory()))?;
    table.set("memory", memory)?;
    table.set("log", lua.create_function(log)?)?;
    let base64 = lua.create_function(|_, text: LuaString| Ok(STANDARD.encode(text.as_bytes())))?;
    table.set("base64", base64)?;
    let traceback = lua.create_function(|lua, message: Option<LuaString>| {
        let message = message.map(|message| message.to_string_lossy());
        lua.traceback(message.as_deref(), 1)
    })?;
    table.set("traceback", traceback)?;
    // In microseconds, which a number of Lua holds exactly for longer than we live.
    let now = lua.create_function(|_, ()| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok((since.unwrap_or_default().as_secs_f64() * 1e6).floor())
    })?;
    table.set("now", now)?;
    Ok(table)
}

/// Levels as Envoy counts them.
fn log(_: &Lua, (level, message): (u8, LuaString)) -> Result<()> {
    let said = message.to_string_lossy();
    let said = said.as_str();
    match level {
        0 => tracing::trace!(said, "script"),
        1 => tracing::debug!(said, "script"),
        2 => tracing::info!(said, "script"),
        3 => tracing::warn!(said, "script"),
        _ => tracing::error!(said, "script"),
    }
    Ok(())
}

/// Whether a script ended because it held too much memory.
pub fn is_memory(error: &Error) -> bool {
    match error {
        Error::MemoryError(_) => true,
        Error::CallbackError { cause, .. } => is_memory(cause),
        _ => false,
    }
}

/// In one line, with the line of the script that it comes from.
pub fn told(error: &Error) -> String {
    let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
    match error {
        Error::SyntaxError { message, .. } => first(message),
        Error::RuntimeError(message) => first(message),
        Error::MemoryError(_) => "the script holds too much memory".to_owned(),
        Error::CallbackDestructed => "a stream was used after its time".to_owned(),
        Error::CallbackError { traceback, cause } => {
            let reason = told(cause);
            let at = traceback.lines().find_map(|line| {
                let line = line.trim().strip_prefix(SCRIPT)?.strip_prefix(':')?;
                let (number, _) = line.split_once(':')?;
                Some(format!("{SCRIPT}:{number}: "))
            });
            match at {
                Some(at) if !reason.starts_with(SCRIPT) => at + &reason,
                _ => reason,
            }
        }
        other => first(&other.to_string()),
    }
}
