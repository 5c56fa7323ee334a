import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FileNotFoundError, FilesystemEventType, InvalidArgumentError } from 'e2b'
import { shareSandbox, until } from './sandboxes.js'

const shared = shareSandbox()

test('watchDir tells what happens', async () => {
  const { files } = shared.sandbox
  await files.makeDir('watched')
  const events = []
  const handle = await files.watchDir('watched', (event) => void events.push(event))
  await files.write('watched/new.txt', 'x')
  await until(() => events.some((each) => each.type === FilesystemEventType.WRITE))
  assert.deepEqual([events[0].name, events[0].type], ['new.txt', FilesystemEventType.CREATE])
  await files.rename('watched/new.txt', 'watched/other.txt')
  await until(() => events.some((each) => each.type === FilesystemEventType.RENAME))
  await files.remove('watched/other.txt')
  await until(() => events.some((each) => each.type === FilesystemEventType.REMOVE))
  await handle.stop()
})

test('watchDir below, in new directories too, with entries', async () => {
  const { files } = shared.sandbox
  await files.makeDir('deep')
  const events = []
  const handle = await files.watchDir('deep', (event) => void events.push(event), {
    recursive: true,
    includeEntry: true,
  })
  await files.makeDir('deep/nested')
  await files.write('deep/nested/test.txt', 'x')
  const find = () => events.find((each) => each.name === 'nested/test.txt' && each.entry)
  await until(find)
  assert.equal(find().entry.path, '/home/user/deep/nested/test.txt')
  await handle.stop()
})

test('stop ends the watch', async () => {
  const { files } = shared.sandbox
  await files.makeDir('stopped')
  const events = []
  let ended = false
  const handle = await files.watchDir('stopped', (event) => void events.push(event), {
    // This SDK hands over its own abort as an error here.
    onExit: () => void (ended = true),
  })
  await handle.stop()
  await until(() => ended)
  await files.write('stopped/new.txt', 'x')
  assert.deepEqual(events, [])
})

test('what can not be watched', async () => {
  const { files } = shared.sandbox
  await files.write('file.txt', 'x')
  await assert.rejects(files.watchDir('file.txt', () => {}), InvalidArgumentError)
  await assert.rejects(files.watchDir('no-such-directory', () => {}), FileNotFoundError)
})
