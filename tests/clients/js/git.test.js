import assert from 'node:assert/strict'
import { test } from 'node:test'
import { shareSandbox } from './sandboxes.js'

const shared = shareSandbox()

/** A repository `name` with one commit, and the directory it is in. */
async function commitFirst(name) {
  const { git, files } = shared.sandbox
  const path = `/home/user/${name}`
  await git.init(path, { initialBranch: 'main' })
  await git.configureUser('Ann', 'ann@example.com', { scope: 'local', path })
  await files.write(`${path}/a.txt`, 'first\n')
  await git.add(path)
  await git.commit(path, 'first')
  return path
}

test('init, add, commit, status', async () => {
  const { git, files } = shared.sandbox
  const path = await commitFirst('status')
  assert.equal((await git.status(path)).isClean, true)
  await files.write(`${path}/a.txt`, 'second\n')
  await files.write(`${path}/b.txt`, 'new\n')
  await git.add(path, { files: ['b.txt'] })
  const status = await git.status(path)
  assert.equal(status.currentBranch, 'main')
  const staged = Object.fromEntries(status.fileStatus.map((each) => [each.name, each.staged]))
  assert.deepEqual(staged, { 'a.txt': false, 'b.txt': true })
})

test('createBranch, checkoutBranch, branches, deleteBranch', async () => {
  const { git } = shared.sandbox
  const path = await commitFirst('branches')
  await git.createBranch(path, 'side')
  assert.equal((await git.branches(path)).currentBranch, 'side')
  await git.checkoutBranch(path, 'main')
  const { branches, currentBranch } = await git.branches(path)
  assert.deepEqual([branches.toSorted(), currentBranch], [['main', 'side'], 'main'])
  await git.deleteBranch(path, 'side', { force: true })
  assert.deepEqual((await git.branches(path)).branches, ['main'])
})

test('reset and restore', async () => {
  const { git, files } = shared.sandbox
  const path = await commitFirst('reset')
  await files.write(`${path}/a.txt`, 'changed\n')
  await git.add(path)
  await git.reset(path, { mode: 'mixed', target: 'HEAD' })
  assert.equal((await git.status(path)).hasStaged, false)
  await git.restore(path, { paths: ['a.txt'] })
  assert.equal(await files.read(`${path}/a.txt`), 'first\n')
})

test('remoteAdd, remoteGet, push, clone, pull', async () => {
  const { git, files } = shared.sandbox
  const path = await commitFirst('origin')
  await git.init('/home/user/bare.git', { bare: true, initialBranch: 'main' })
  await git.remoteAdd(path, 'origin', '/home/user/bare.git')
  assert.equal(await git.remoteGet(path, 'origin'), '/home/user/bare.git')
  assert.equal(await git.remoteGet(path, 'other'), undefined)
  await git.push(path, { remote: 'origin', branch: 'main', setUpstream: true })
  await git.clone('/home/user/bare.git', { path: '/home/user/copy' })
  assert.equal(await files.read('/home/user/copy/a.txt'), 'first\n')
  await files.write(`${path}/a.txt`, 'second\n')
  await git.add(path)
  await git.commit(path, 'second')
  await git.push(path)
  await git.pull('/home/user/copy')
  assert.equal(await files.read('/home/user/copy/a.txt'), 'second\n')
})

test('setConfig, getConfig, configureUser, dangerouslyAuthenticate', async () => {
  const { git, commands } = shared.sandbox
  await git.setConfig('core.pager', 'cat')
  assert.equal(await git.getConfig('core.pager'), 'cat')
  assert.equal(await git.getConfig('no.such'), undefined)
  await git.configureUser('Bob', 'bob@example.com')
  assert.equal(await git.getConfig('user.name'), 'Bob')
  await git.dangerouslyAuthenticate({ username: 'u', password: 'p', host: 'git.example.com' })
  const request = 'printf "protocol=https\\nhost=git.example.com\\n\\n"'
  const filled = await commands.run(`${request} | git credential fill`)
  assert.match(filled.stdout, /username=u\npassword=p\n/)
})
