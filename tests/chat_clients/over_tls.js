// The chat's own page over `https`, in headless Chromium, with a certificate that no authority has signed.
const { chromium } = require('playwright-core');
const assert = require('assert');
const tls = require('tls');
const readline = require('readline');

const [, , port, executablePath] = process.argv;
const PATIENCE = 120000;

(async () => {
  const line = tls.connect({ port: +port, host: '127.0.0.1', servername: 'localhost', rejectUnauthorized: false });
  const lines = readline.createInterface({ input: line })[Symbol.asyncIterator]();
  const next = async () => (await lines.next()).value;
  line.write('line\n');
  assert.strictEqual(await next(), 'CLIENT: 127.0.0.1');

  const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'];
  const browser = await chromium.launch({ executablePath, headless: true, args, timeout: PATIENCE });
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const faults = [], sockets = [];
  page.on('console', (message) => faults.push(message.text()));
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('websocket', (socket) => sockets.push(socket.url()));
  const answer = await page.goto(`https://localhost:${port}/`);
  assert.strictEqual(answer.status(), 200);
  await page.keyboard.type('ann');
  await page.keyboard.press('Enter');
  assert.strictEqual(await next(), '(Connected: New client (2) from ann@127.0.0.1)');
  line.write('over TLS\n');
  await page.waitForFunction(() => document.getElementById('log').innerText.includes('over TLS'));
  await page.keyboard.type('and back');
  await page.keyboard.press('Enter');
  assert.strictEqual(await next(), '#ann@127.0.0.1>>and back');
  await page.click('#leave');
  assert.strictEqual(await next(), '(Now hung up: Client from ann@127.0.0.1)');
  await browser.close();
  assert.deepStrictEqual(sockets, [`wss://localhost:${port}/ws`]);
  assert.deepStrictEqual(faults, [], 'on the console');
  console.log('the end');
  process.exit(0);
})().catch((error) => {
  console.log(error.stack);
  process.exit(1);
});
