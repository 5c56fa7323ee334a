import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Sandbox } from 'e2b'
import { shareSandbox, until } from './sandboxes.js'

const shared = shareSandbox()

test('getMetrics', async () => {
  const { sandbox } = shared
  await until(async () => (await sandbox.getMetrics()).length > 0)
  const [first] = await Sandbox.getMetrics(sandbox.sandboxId)
  const info = await sandbox.getInfo()
  assert.equal(first.cpuCount, info.cpuCount)
  assert.ok(first.memUsed > 0 && first.memUsed <= first.memTotal)
  assert.ok(first.diskTotal > first.diskUsed)
  assert.ok(first.timestamp >= info.startedAt)
  const long_ago = { start: new Date(0), end: new Date(1000) }
  assert.deepEqual(await sandbox.getMetrics(long_ago), [])
})
