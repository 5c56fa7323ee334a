import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { Sandbox, Volume, VolumeNotFoundError, VolumePathNotFoundError } from 'e2b'

let volume

before(async () => {
  volume = await Volume.create(`js-${process.hrtime.bigint()}`)
})
after(() => Volume.destroy(volume.volumeId))

test('create, getInfo, connect, list, destroy', async () => {
  const made = await Volume.create(`js-short-${process.hrtime.bigint()}`)
  assert.equal((await Volume.getInfo(made.volumeId)).name, made.name)
  assert.equal((await Volume.connect(made.volumeId)).token, made.token)
  const ids = async () => (await Volume.list()).map((each) => each.volumeId)
  assert.ok((await ids()).includes(made.volumeId))
  assert.equal(await Volume.destroy(made.volumeId), true)
  assert.equal(await Volume.destroy(made.volumeId), false)
  assert.ok(!(await ids()).includes(made.volumeId))
  await assert.rejects(Volume.getInfo(made.volumeId), VolumeNotFoundError)
})

test('writeFile and readFile', async () => {
  const data = new Uint8Array(100_000).map((_, index) => index)
  await volume.writeFile('/text.txt', 'hello €')
  assert.equal(await volume.readFile('/text.txt'), 'hello €')
  await volume.writeFile('/data.bin', data.buffer)
  assert.deepEqual(await volume.readFile('/data.bin', { format: 'bytes' }), data)
  await assert.rejects(volume.readFile('/missing'), VolumePathNotFoundError)
})

test('makeDir, list, getInfo, exists, remove', async () => {
  await volume.makeDir('/tree/branch', { force: true })
  await volume.writeFile('/tree/leaf', '12345')
  const paths = (await volume.list('/tree')).map((each) => each.path)
  assert.deepEqual(paths.toSorted(), ['/tree/branch', '/tree/leaf'])
  assert.equal((await volume.getInfo('/tree/leaf')).size, 5)
  assert.equal(await volume.exists('/tree/leaf'), true)
  await volume.remove('/tree/leaf')
  assert.equal(await volume.exists('/tree/leaf'), false)
})

test('updateMetadata', async () => {
  await volume.writeFile('/owned', 'x')
  const entry = await volume.updateMetadata('/owned', { uid: 1000, gid: 1000, mode: 0o600 })
  assert.deepEqual([entry.uid, entry.gid, entry.mode & 0o777], [1000, 1000, 0o600])
})

test('one volume in two sandboxes', async () => {
  const volumeMounts = { '/mnt/shared': volume }
  const made = await Promise.all([1, 2].map(() => Sandbox.create({ volumeMounts })))
  try {
    await made[0].files.write('/mnt/shared/from-one', 'hello', { user: 'root' })
    assert.equal(await made[1].files.read('/mnt/shared/from-one', { user: 'root' }), 'hello')
    assert.equal(await volume.readFile('/from-one'), 'hello')
    assert.deepEqual((await made[0].getInfo()).volumeMounts, [
      { name: volume.name, path: '/mnt/shared' },
    ])
  } finally {
    await Promise.all(made.map((each) => each.kill()))
  }
})
