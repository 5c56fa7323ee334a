import assert from 'node:assert/strict'
import { test } from 'node:test'
import { E2B, AuthenticationError, Sandbox, SandboxError, SandboxNotFoundError } from 'e2b'
import { scheme, shareSandbox, until } from './sandboxes.js'

const shared = shareSandbox({ metadata: { suite: 'js sandbox' }, envs: { GREETING: 'hi there' } })

test('create, run, kill', async () => {
  const sandbox = await Sandbox.create('base', { timeoutMs: 60_000 })
  assert.equal((await sandbox.commands.run('echo hello')).stdout, 'hello\n')
  assert.equal(await sandbox.kill(), true)
  assert.equal(await sandbox.kill(), false)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  assert.equal(await sandbox.isRunning(), false)
})

test('create passes variables and metadata', async () => {
  const { sandbox } = shared
  assert.equal((await sandbox.commands.run('echo $GREETING')).stdout, 'hi there\n')
  assert.deepEqual((await sandbox.getInfo()).metadata, { suite: 'js sandbox' })
})

test('connect by id and again', async () => {
  const { sandbox } = shared
  await sandbox.files.write('note', 'from the first client')
  const other = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(await other.files.read('note'), 'from the first client')
  assert.equal(await other.connect(), other)
  await assert.rejects(Sandbox.connect('a'.repeat(20)), SandboxNotFoundError)
})

test('connect never shortens the life', async () => {
  const { sandbox } = shared
  const before = (await sandbox.getInfo()).endAt
  await sandbox.connect({ timeoutMs: 5_000 })
  assert.deepEqual((await sandbox.getInfo()).endAt, before)
})

test('getInfo and getFullInfo', async () => {
  const { sandbox } = shared
  const info = await sandbox.getInfo()
  assert.equal(info.sandboxId, sandbox.sandboxId)
  assert.equal(info.name, 'base')
  assert.equal(info.state, 'running')
  assert.equal(info.envdVersion, '0.6.7')
  assert.ok(info.cpuCount >= 1 && info.memoryMB >= 128)
  assert.ok(info.startedAt < info.endAt)
  assert.deepEqual(info, await Sandbox.getInfo(sandbox.sandboxId))
  assert.deepEqual(info, await Sandbox.getFullInfo(sandbox.sandboxId))
  await assert.rejects(Sandbox.getInfo('a'.repeat(20)), SandboxNotFoundError)
})

test('setTimeout lengthens and shortens', async () => {
  const { sandbox } = shared
  await sandbox.setTimeout(900_000)
  const longer = (await sandbox.getInfo()).endAt
  await Sandbox.setTimeout(sandbox.sandboxId, 300_000)
  assert.ok((await sandbox.getInfo()).endAt < longer)
})

test('setTimeout of nothing ends it', async () => {
  const sandbox = await Sandbox.create()
  await sandbox.setTimeout(0)
  await until(async () => !(await sandbox.isRunning()))
  await assert.rejects(sandbox.setTimeout(1000), SandboxNotFoundError)
})

test('isRunning', async () => {
  assert.equal(await shared.sandbox.isRunning(), true)
})

test('list in pages, with filters and order', async () => {
  const mark = `js ${process.hrtime.bigint()}`
  const made = []
  for (let number = 0; number < 3; number++)
    made.push(await Sandbox.create({ metadata: { mark, number: String(number) } }))
  try {
    const ids = made.map((each) => each.sandboxId)
    const pages = Sandbox.list({ query: { metadata: { mark } }, limit: 2 })
    const seen = []
    while (pages.hasNext) {
      const items = await pages.nextItems()
      assert.ok(items.length <= 2)
      seen.push(...items.map((each) => each.sandboxId))
    }
    assert.deepEqual(seen, ids.toReversed())
    assert.equal(pages.nextToken, undefined)
    const find = async (query, order) => {
      const items = await Sandbox.list({ query: { metadata: { mark }, ...query }, order }).nextItems()
      return items.map((each) => each.sandboxId)
    }
    assert.deepEqual(await find({}, 'asc'), ids)
    assert.deepEqual(await find({ metadata: { mark, number: '1' } }), [ids[1]])
    assert.deepEqual(await find({ state: ['paused'] }), [])
    assert.deepEqual(await find({ template: 'no-such-template' }), [])
    const { startedAt } = await made[1].getInfo()
    assert.deepEqual(await find({ startedAfter: startedAt }, 'asc'), ids.slice(1))
  } finally {
    await Promise.all(made.map((each) => each.kill()))
  }
})

test('updateNetwork closes and opens the way out', async () => {
  const { sandbox } = shared
  await sandbox.updateNetwork({ allowInternetAccess: false })
  assert.equal((await sandbox.getInfo()).allowInternetAccess, false)
  await Sandbox.updateNetwork(sandbox.sandboxId, { allowInternetAccess: true })
  assert.notEqual((await sandbox.getInfo()).allowInternetAccess, false)
})

test('getHost leads to a port', async () => {
  const { sandbox } = shared
  await sandbox.files.write('www/index.html', 'it works')
  await sandbox.commands.run('cd www && exec python3 -m http.server 8000 --bind 127.0.0.1', {
    background: true,
    timeoutMs: 0,
  })
  await sandbox.commands.run("until ss -Hltn 'sport = :8000' | grep -q .; do sleep 0.1; done")
  const answer = await fetch(`${scheme}://${sandbox.getHost(8000)}/`)
  assert.equal(await answer.text(), 'it works')
})

test('a killed sandbox ends a running command', async () => {
  const sandbox = await Sandbox.create()
  const handle = await sandbox.commands.run('sleep 60', { background: true })
  const waiting = assert.rejects(handle.wait(), /killed or reached its end of life/)
  await sandbox.kill()
  await waiting
})

test('a wrong key', async () => {
  const apiKey = 'e2b_' + '0'.repeat(40)
  await assert.rejects(Sandbox.create({ apiKey }), AuthenticationError)
})

test('an unknown template', async () => {
  await assert.rejects(Sandbox.create('no-such-template'), (error) => {
    assert.ok(error instanceof SandboxError)
    return /no-such-template/.test(error.message)
  })
})

test('a client with its own options', async () => {
  const client = new E2B({ apiKey: process.env.E2B_API_KEY })
  const sandbox = await client.Sandbox.create()
  assert.equal(await client.Sandbox.kill(sandbox.sandboxId), true)
})
