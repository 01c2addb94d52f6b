//! What scripts have of the language, and where they end.

use super::*;

fn told_of(lines: &str) -> String {
    let script = format!("function f()\n{lines}\nend\nf()");
    match Script::compile(script.into_bytes()) {
        Ok(_) => "nothing".to_owned(),
        Err(invalid) => invalid.to_string(),
    }
}

#[test]
fn a_script_has_no_way_out() {
    for lines in [
        "return io.open('/etc/passwd')",
        "return os.execute('true')",
        "return os.getenv('HOME')",
        "return os.exit()",
        "return os.remove('/x')",
        "return dofile('/etc/passwd')",
        "return loadfile('/etc/passwd')()",
        "return require('os')",
        "return package.path",
        "return debug.getregistry()",
        "return string.dump(told_of)",
        "return assert(load('\\27Lua'))",
        "return setmetatable({}, {__gc = function() end})",
        "return collectgarbage('stop')",
    ] {
        assert_ne!(told_of(lines), "nothing", "{lines}");
    }
}

#[test]
fn what_scripts_for_luajit_use_is_there() {
    for lines in [
        "assert(unpack({1, 2}) == 1 and select('#', table.unpack({1, 2})) == 2)",
        "assert(loadstring('return 7')() == 7)",
        "assert(load('return x', 'n', 't', {x = 1})() == 1)",
        "assert(bit.band(0xff, 0x0f) == 15 and bit.bnot(0) == -1 and bit.tohex(255) == '000000ff')",
        "assert(bit.lshift(1, 31) == -2147483648 and bit.bswap(0x12345678) == 0x78563412)",
        "assert(bit.rol(0x80000000, 1) == 1 and bit.arshift(-8, 1) == -4)",
        "assert(math.log10(1000) > 2.99 and table.maxn({[5] = 1}) == 5 and table.getn({1}) == 1)",
        "assert(os.time() > 0 and os.date('%Y') ~= nil and os.clock() >= 0)",
        "assert(tostring(10 / 2) == '5' and 7 % 3 == 1)",
        "assert(xpcall(error, debug.traceback, 'x') == false)",
        "local ok, why = pcall(error, 'x', 0) assert(not ok and why == 'x')",
        "local w = coroutine.wrap(function() coroutine.yield(1) end) assert(w() == 1)",
        "assert(collectgarbage('count') > 0 and collectgarbage() == 0)",
        "print('a', nil, 1)",
    ] {
        assert_eq!(told_of(lines), "nothing", "{lines}");
    }
}

#[test]
fn a_script_that_does_not_end_is_stopped_whatever_it_catches() {
    let over = "the script has run for too long";
    for lines in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do xpcall(function() while true do end end, function() end) end",
        "while true do coroutine.resume(coroutine.create(function() while true do end end)) end",
        "while true do coroutine.wrap(function() end)() end",
        "local function again() return pcall(again) end while true do again() end",
    ] {
        let told = told_of(lines);
        assert!(told.contains(over), "{lines}: {told}");
    }
}

#[test]
fn a_script_that_holds_too_much_is_stopped() {
    let too_much = "the script holds too much memory";
    assert!(told_of("return ('x'):rep(1e9)").contains(too_much));
    assert!(
        told_of("local t = {} for i = 1, 1e6 do t[i] = ('x'):rep(1000) .. i end")
            .contains(too_much)
    );
}

#[tokio::test]
async fn an_interpreter_that_is_full_is_replaced() {
    let chain = on_request(
        r#"
        kept = kept or {}
        handle:headers():add("kept", #kept)
        for i = 1, 1e5 do kept[#kept + 1] = ("x"):rep(10000) .. i end
        "#,
    );
    for _ in 0..3 {
        let it = passed_with(&chain, None, Nowhere::default()).await;
        assert_eq!(it.header("kept"), "0");
    }
}

#[test]
fn what_is_no_script_is_refused_with_its_line() {
    let refused = |config: &proto::Lua| chain(FACTORY.message, config).unwrap_err().to_string();
    let syntax = proto::Lua {
        default_source_code: Some(source("function envoy_on_request(h)\n  h::headers()\nend")),
        ..proto::Lua::default()
    };
    let told = refused(&syntax);
    assert!(
        told.starts_with("default_source_code: script:2: "),
        "{told}"
    );
    let fails = proto::Lua {
        source_codes: [("a".to_owned(), source("\n\nnothing()"))].into(),
        ..proto::Lua::default()
    };
    let told = refused(&fails);
    assert!(told.starts_with("source_codes.a: script:3: "), "{told}");
    let no_function = proto::Lua {
        default_source_code: Some(source("envoy_on_request = 1")),
        ..proto::Lua::default()
    };
    let told = refused(&no_function);
    assert!(
        told.starts_with("default_source_code: envoy_on_request is no function"),
        "{told}"
    );
    let paths = proto::Lua {
        package_paths: vec!["/x/?.lua".to_owned()],
        ..proto::Lua::default()
    };
    assert!(refused(&paths).starts_with("package_paths: not supported"));
}
