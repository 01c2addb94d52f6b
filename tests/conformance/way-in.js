// Loaded before the kits' browser test (node -r): every browser context first opens the address WAY_IN, as a
// user's browser does when an app is launched, and must arrive at WAY_IN_TO with the permit cookie.
const { chromium } = require('playwright-core');
const launch = chromium.launch.bind(chromium);
chromium.launch = async (options) => {
  const browser = await launch(options);
  const newContext = browser.newContext.bind(browser);
  browser.newContext = async (settings) => {
    const context = await newContext(settings);
    const page = await context.newPage();
    const hops = [];
    page.on('response', (r) => { if (r.request().isNavigationRequest()) hops.push(r.status()); });
    await page.goto(process.env.WAY_IN, { waitUntil: 'domcontentloaded', timeout: 60000 });
    const cookie = (await context.cookies(process.env.WAY_IN_TO)).find((c) => c.name === 'appproxy_permit');
    const good = page.url().startsWith(process.env.WAY_IN_TO) && cookie;
    console.log(`${good ? 'PASS' : 'FAIL'} from the Coordinator's link into the app with the cookie  [${hops.join(' ')}, cookie for ${cookie ? cookie.domain : '-'}, ${page.url()}]`);
    await page.close();
    return context;
  };
  return browser;
};
