-- What scripts get: the libraries that are left to them, and the objects by which they see a stream.
-- Everything about a stream goes through one function of the program, `ask`, which is good for as
-- long as the script runs and is another one each time that it goes on.
local native = ...

local error, select, type, rawget, next = error, select, type, rawget, next
local pcall_, xpcall_, load_, setmetatable_ = pcall, xpcall, load, setmetatable
local create, resume_, running, yield =
  coroutine.create, coroutine.resume, coroutine.running, coroutine.yield
local tostring, floor = tostring, math.floor

-- Libraries -------------------------------------------------------------------------------------

-- Who catches errors does not catch that the time is up, and sees texts where the program has failed.
local function caught(ok, ...)
  if ok then
    return true, ...
  end
  if native.is_over() then
    error(native.OVER, 0)
  end
  return false, native.told((...))
end

function pcall(f, ...)
  return caught(pcall_(f, ...))
end

function xpcall(f, handler, ...)
  return caught(xpcall_(f, function(e)
    return handler(native.told(e))
  end, ...))
end

local function resume(thread, ...)
  native.spend()
  return caught(resume_(thread, ...))
end
coroutine.resume = resume

local function passed_on(ok, ...)
  if not ok then
    error((...), 0)
  end
  return ...
end

coroutine.wrap = function(f)
  local thread = create(f)
  return function(...)
    return passed_on(resume(thread, ...))
  end
end

-- A finalizer would run when nobody counts what it does.
function setmetatable(object, meta)
  if type(meta) == "table" and rawget(meta, "__gc") ~= nil then
    error("__gc is not available", 2)
  end
  return setmetatable_(object, meta)
end

-- Texts only: a compiled script is not checked by the interpreter.
function load(chunk, name, _, ...)
  if select("#", ...) > 0 then
    return load_(chunk, name, "t", (...))
  end
  return load_(chunk, name, "t")
end

function loadstring(text, name)
  return load_(text, name or text, "t")
end

function collectgarbage(what)
  if what == "count" then
    return native.memory() / 1024
  end
  if what == nil or what == "collect" or what == "step" then
    return 0
  end
  error("collectgarbage(\"" .. tostring(what) .. "\") is not available", 2)
end

function print(...)
  local texts = {}
  for i = 1, select("#", ...) do
    texts[i] = tostring((select(i, ...)))
  end
  native.log(2, table.concat(texts, "\t"))
end

function require(name)
  error("require(\"" .. tostring(name) .. "\"): modules are not available", 2)
end

-- As scripts for 5.1 and LuaJIT know them.
unpack = table.unpack
dofile, loadfile, string.dump = nil, nil, nil
os = { clock = os.clock, date = os.date, difftime = os.difftime, time = os.time }
debug = { traceback = native.traceback }
math.log10 = function(x)
  return math.log(x, 10)
end
table.getn = function(t)
  return #t
end
table.maxn = function(t)
  local most = 0
  for key in next, t do
    if type(key) == "number" and key > most then
      most = key
    end
  end
  return most
end

-- LuaJIT counts bits with a sign.
local function signed(n)
  return n >= 0x80000000 and n - 0x100000000 or n
end
bit = {
  tobit = function(a)
    return signed(bit32.band(a))
  end,
  tohex = function(a, n)
    n = n or 8
    local form = n < 0 and "X" or "x"
    n = n < 0 and -n or n
    return string.sub(string.format("%08" .. form, bit32.band(a)), -n)
  end,
  bswap = function(a)
    a = bit32.band(a)
    return signed(bit32.bor(
      bit32.lshift(a, 24),
      bit32.band(bit32.lshift(a, 8), 0xff0000),
      bit32.band(bit32.rshift(a, 8), 0xff00),
      bit32.rshift(a, 24)
    ))
  end,
}
for _, name in ipairs({ "band", "bor", "bxor", "bnot" }) do
  local f = bit32[name]
  bit[name] = function(...)
    return signed(f(...))
  end
end
-- Shifts are by the lowest five bits.
for name, of in pairs({ lshift = "lshift", rshift = "rshift", arshift = "arshift", rol = "lrotate", ror = "rrotate" }) do
  local f = bit32[of]
  bit[name] = function(a, n)
    return signed(f(a, bit32.band(n, 31)))
  end
end

EnvoyTimestampResolution = { MILLISECOND = "MILLISECOND", MICROSECOND = "MICROSECOND" }

-- Objects ---------------------------------------------------------------------------------------

local function class()
  local methods = {}
  methods.__index = methods
  methods.__metatable = false
  return methods
end

local function new(methods, stream, of)
  return setmetatable_({ stream = stream, of = of }, methods)
end

local function resumed(stream, ask, ...)
  stream.ask = ask
  return ...
end

-- What may have to be waited for: then the script sleeps until the program has it.
local function wait(stream, ...)
  if running() ~= stream.thread then
    error("this may not be called from within a coroutine of the script", 3)
  end
  local waits, value = stream.ask(...)
  if waits then
    return resumed(stream, yield())
  end
  return value
end

local Headers = class()

function Headers:get(name)
  return self.stream.ask("get", self.of, name)
end

function Headers:getAtIndex(name, index)
  return self.stream.ask("at", self.of, name, index)
end

function Headers:getNumValues(name)
  return self.stream.ask("count", self.of, name)
end

function Headers:add(name, value)
  self.stream.ask("add", self.of, name, value)
end

function Headers:replace(name, value)
  self.stream.ask("replace", self.of, name, value)
end

function Headers:remove(name)
  self.stream.ask("remove", self.of, name)
end

function Headers:setHttp1ReasonPhrase()
  error("setHttp1ReasonPhrase is not supported", 2)
end

-- Of what was there at the beginning, so that the fields may be changed meanwhile.
function Headers:__pairs()
  local all, at = self.stream.ask("all", self.of), -1
  return function()
    at = at + 2
    return all[at], all[at + 1]
  end
end

local Buffer = class()

function Buffer:length()
  return self.stream.ask("length", self.of)
end

function Buffer:getBytes(index, length)
  return self.stream.ask("bytes", self.of, index, length)
end

function Buffer:setBytes(bytes)
  return self.stream.ask("set", self.of, bytes)
end

local Metadata = class()

function Metadata:get(key)
  return self.of[key]
end

function Metadata:__pairs()
  return next, self.of, nil
end

local DynamicMetadata = class()

function DynamicMetadata:get(namespace)
  return self.stream.ask("dynamic", namespace)
end

function DynamicMetadata:set(namespace, key, value)
  self.stream.ask("set_dynamic", namespace, key, value)
end

function DynamicMetadata:__pairs()
  return next, self.stream.ask("all_dynamic"), nil
end

local FilterState = class()

function FilterState:get(name)
  return self.stream.ask("state", name)
end

local StreamInfo, Ssl, Connection = class(), class(), class()

-- By the name of the method.
for _, name in ipairs(native.FACTS) do
  StreamInfo[name] = function(self)
    return self.stream.ask("fact", name)
  end
end
for _, name in ipairs(native.SSL_FACTS) do
  Ssl[name] = function(self)
    return self.stream.ask("fact", name)
  end
end
for _, name in ipairs(native.SSL_LISTS) do
  Ssl[name] = function(self)
    local all = {}
    for one in string.gmatch(self.stream.ask("fact", name), "[^,]+") do
      all[#all + 1] = one
    end
    return all
  end
end

function Ssl:peerCertificatePresented()
  return self:sha256PeerCertificateDigest() ~= ""
end

local function ssl(self)
  if self.stream.ask("fact", "tlsVersion") ~= "" then
    return new(Ssl, self.stream)
  end
end

function StreamInfo:dynamicMetadata()
  return new(DynamicMetadata, self.stream)
end

function StreamInfo:filterState()
  return new(FilterState, self.stream)
end

StreamInfo.downstreamSslConnection = ssl
Connection.ssl = ssl

local Handle = class()

function Handle:headers()
  return new(Headers, self.stream, "headers")
end

function Handle:body(always)
  if wait(self.stream, "body") or always then
    return new(Buffer, self.stream, "body")
  end
end

function Handle:bodyChunks()
  local stream = self.stream
  return function()
    if wait(stream, "chunk") then
      return new(Buffer, stream, "chunk")
    end
  end
end

function Handle:trailers()
  if wait(self.stream, "trailers") then
    return new(Headers, self.stream, "trailers")
  end
end

function Handle:metadata()
  return new(Metadata, self.stream, self.stream.ask("metadata"))
end

function Handle:filterContext()
  local context = self.stream.ask("context")
  return setmetatable_(context, { __index = { get = function(self, key) return rawget(self, key) end } })
end

function Handle:streamInfo()
  return new(StreamInfo, self.stream)
end

function Handle:connection()
  return new(Connection, self.stream)
end

-- Both forms: (cluster, headers, body, timeout_ms, asynchronous), (cluster, headers, body, options).
function Handle:httpCall(cluster, headers, body, timeout, asynchronous)
  local duplicates = false
  if type(timeout) == "table" then
    local options = timeout
    timeout, asynchronous = options.timeout_ms, options.asynchronous
    duplicates = options.return_duplicate_headers
  end
  return wait(self.stream, "call", cluster, headers, body, timeout, asynchronous, duplicates)
end

function Handle:respond(headers, body)
  wait(self.stream, "respond", headers, body)
end

function Handle:clearRouteCache()
  self.stream.ask("clear_route")
end

function Handle:setUpstreamOverrideHost(host, strict)
  self.stream.ask("override_host", host, strict)
end

function Handle:log(level, message)
  native.log(level, message)
end

for level, name in ipairs({ "logTrace", "logDebug", "logInfo", "logWarn", "logErr", "logCritical" }) do
  Handle[name] = function(_, message)
    native.log(level - 1, message)
  end
end

function Handle:base64Escape(text)
  return native.base64(text)
end

function Handle:timestamp(resolution)
  if resolution ~= nil and resolution ~= EnvoyTimestampResolution.MILLISECOND then
    error("timestamp format must be MILLISECOND", 2)
  end
  return floor(native.now() / 1000)
end

function Handle:timestampString(resolution)
  local now = native.now()
  if resolution == nil or resolution == EnvoyTimestampResolution.MILLISECOND then
    now = floor(now / 1000)
  elseif resolution ~= EnvoyTimestampResolution.MICROSECOND then
    error("timestamp format must be MILLISECOND or MICROSECOND", 2)
  end
  return string.format("%.0f", now)
end

for _, name in ipairs({ "importPublicKey", "verifySignature", "connectionStreamInfo" }) do
  Handle[name] = function()
    error(name .. " is not supported", 2)
  end
end

-- What runs a function of the script, as the body of a coroutine.
return function(ask, f)
  f(new(Handle, { ask = ask, thread = running() }))
end
