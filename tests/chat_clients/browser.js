// The chat's page in headless Chromium, beside a member who speaks in lines. Every wait waits for its effect.
const { chromium } = require('playwright-core');
const assert = require('assert');
const net = require('net');
const fs = require('fs');
const readline = require('readline');

const [, , port, executablePath] = process.argv;
const PATIENCE = 120000;
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

// A member as `nc` would be one.
const member = async (name) => {
  const socket = net.connect(+port, '127.0.0.1');
  const lines = [], waiting = [];
  readline.createInterface({ input: socket }).on('line', (line) => (waiting.length ? waiting.shift()(line) : lines.push(line)));
  const next = () => (lines.length ? lines.shift() : new Promise((resolve) => waiting.push(resolve)));
  socket.on('error', () => {});
  socket.write(`${name}\n`);
  assert.strictEqual(await next(), 'CLIENT: 127.0.0.1');
  return { say: (text) => socket.write(`${text}\n`), next, leave: () => socket.end('/quit\n') };
};

const orders = readline.createInterface({ input: process.stdin });
const asked = (order) => new Promise((resolve) => {
  orders.once('line', resolve);
  console.log(order);
});

(async () => {
  const args = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--disable-dev-shm-usage', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync'];
  const browser = await chromium.launch({ executablePath, headless: true, args, timeout: PATIENCE });
  const line = await member('line');
  const faults = [], requests = [];
  let isServed = true;

  for (const [width, colorScheme] of [[1200, 'light'], [360, 'dark']]) {
    const context = await browser.newContext({ viewport: { width, height: 640 }, colorScheme, reducedMotion: 'reduce' });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE);
    page.on('console', (message) => { if (isServed) faults.push(message.text()); });
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('request', (request) => requests.push(request.url()));
    const shows = (text) => page.waitForFunction((text) => document.getElementById('log').innerText.includes(text), text);
    const accessible = async (where) => {
      await page.evaluate(axe);
      const found = await page.evaluate(() => window.axe.run());
      assert.deepStrictEqual(found.violations.map((one) => [one.id, one.nodes.map((node) => node.html)]), [], where);
      assert(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${where}: too wide`);
    };

    // A name, by the keyboard alone.
    const answer = await page.goto(`http://127.0.0.1:${port}/`);
    assert.strictEqual(answer.status(), 200);
    await accessible('welcome');
    await page.keyboard.type('line');
    await page.keyboard.press('Enter');
    await page.waitForFunction(() => document.getElementById('refused').innerText === 'The name is taken');
    await accessible('refused');
    await page.keyboard.type('ann');
    await page.keyboard.press('Enter');
    assert.strictEqual(await line.next(), '(Connected: New client (2) from ann@127.0.0.1)');
    await shows('You are here as ann@127.0.0.1');
    await page.waitForFunction(() => document.querySelectorAll('#people li').length === 2);

    // Heard and said, every text as text.
    const markup = '<img src=x onerror="document.title=1"><b>bold</b> &amp;';
    line.say(markup);
    await shows(markup);
    assert.strictEqual(await page.evaluate(() => document.querySelectorAll('#log img, #log b').length), 0);
    await page.keyboard.type('hello, line');
    line.say('in between');
    await shows('in between');
    assert.strictEqual(await page.inputValue('#line'), 'hello, line', 'the line being typed is kept');
    await page.keyboard.press('Enter');
    assert.strictEqual(await line.next(), '#ann@127.0.0.1>>hello, line');
    await shows('hello, line');
    assert.strictEqual(await page.inputValue('#line'), '');
    await page.keyboard.type('//slash');
    await page.keyboard.press('Enter');
    assert.strictEqual(await line.next(), '#ann@127.0.0.1>>/slash');
    await page.keyboard.type('/dance');
    await page.keyboard.press('Enter');
    await shows('Error: unknown command');
    await page.keyboard.type('/who');
    await page.keyboard.press('Enter');
    await shows('2 here: line@127.0.0.1, ann@127.0.0.1');

    // Others come and go.
    const ben = await member('ben');
    await shows('ben joined, 3 here');
    await page.waitForFunction(() => document.getElementById('count').innerText === '3 here' || document.getElementById('who').innerText === '3 here');
    ben.leave();
    await shows('ben left');
    assert.strictEqual(await line.next(), '(Connected: New client (3) from ben@127.0.0.1)');
    assert.strictEqual(await line.next(), '(Now hung up: Client from ben@127.0.0.1)');

    // The newest message is followed, unless the reader has scrolled up.
    for (let number = 0; number < 200; number += 1) line.say(`message ${number}.`);
    await shows('message 199.');
    const atEnd = () => page.waitForFunction(() => {
      const log = document.getElementById('log');
      return log.scrollHeight - log.scrollTop - log.clientHeight < 2;
    });
    await atEnd();
    await page.evaluate(() => { document.getElementById('log').scrollTop = 40; });
    await page.waitForFunction(() => !follows);
    line.say('while reading above');
    await page.waitForFunction(() => !document.getElementById('newer').hidden);
    assert.strictEqual(await page.evaluate(() => document.getElementById('log').scrollTop), 40);
    await accessible('room');
    await page.click('#newer');
    await atEnd();
    await page.waitForFunction(() => document.getElementById('newer').hidden);

    if (width < 400) {
      await page.click('#who');
      await page.waitForFunction(() => document.getElementById('side').checkVisibility());
      await accessible('people');
      await page.keyboard.press('Escape');
      await page.waitForFunction(() => !document.getElementById('side').checkVisibility());
    } else {
      // The server goes away and comes back.
      isServed = false;
      await page.focus('#line');
      await page.keyboard.type('kept');
      assert.strictEqual(await asked('stop'), 'stopped');
      await page.waitForFunction(() => /Next try in \d+ s/.test(document.getElementById('state').innerText));
      await page.keyboard.press('Enter');
      await shows('Not connected: your line is kept');
      await accessible('lost');
      assert.strictEqual(await page.inputValue('#line'), 'kept');
      assert.strictEqual(await asked('start'), 'started');
      await page.waitForFunction(() => document.getElementById('state').innerText === 'Connected as ann');
      await shows('Connected again');
      Object.assign(line, await member('line'));
      await page.focus('#line');
      await page.keyboard.press('Enter');
      assert.strictEqual(await line.next(), '#ann@127.0.0.1>>kept');
      isServed = true;
    }

    await page.click('#leave');
    await page.waitForFunction(() => !document.getElementById('welcome').hidden);
    assert.strictEqual(await line.next(), '(Now hung up: Client from ann@127.0.0.1)');
    await context.close();
  }
  await browser.close();
  assert.deepStrictEqual(faults, [], 'on the console');
  const own = `http://127.0.0.1:${port}/`;
  assert.deepStrictEqual(requests.filter((url) => url !== own && !url.startsWith('data:')), [], 'requests besides the page');
  console.log('the end');
  process.exit(0);
})().catch((error) => {
  console.log(error.stack);
  process.exit(1);
});
