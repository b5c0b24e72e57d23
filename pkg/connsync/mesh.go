package connsync

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// DefaultPort is the TCP port of sessions between lvx directors: the number
// that IPVS's datagrams use over UDP.
const DefaultPort = 8848

// Options are what a [Mesh] is made of.
type Options struct {
	Local []netip.Addr // this host's addresses: of each family one is listened on and dialled from, of Peers' if it is there, else the first
	Peers []netip.Addr // the directors; those of Local, this host itself, are left out
	Port  uint16       // 0: [DefaultPort]
	Keys  []Key        // the first signs, all are accepted
	Table Table
	Log   *slog.Logger

	// TellNow, if not nil, publishes what is new in the table at once: a peer
	// wants to know.
	TellNow func()

	// Changed, if not nil, is called when a session begins, ends or is in
	// sync. It must not wait.
	Changed func()
}

// Mesh keeps a session with each of the other directors.
type Mesh struct {
	o     Options
	peers map[netip.Addr]*peer

	mu      sync.Mutex
	keys    *keyring
	digests []Digest
}

// NewMesh checks o and makes a mesh; nothing is opened before [Mesh.Run].
func NewMesh(o Options) (*Mesh, error) {
	keys, err := newKeyring(o.Keys)
	if err != nil {
		return nil, err
	}
	if o.Port == 0 {
		o.Port = DefaultPort
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	if o.TellNow == nil {
		o.TellNow = func() {}
	}
	m := &Mesh{o: o, keys: keys, peers: map[netip.Addr]*peer{}}
	m.o.Peers = slices.DeleteFunc(slices.Clone(o.Peers), func(a netip.Addr) bool { return slices.Contains(o.Local, a) })
	for _, addr := range m.o.Peers {
		local, ok := o.local(addr)
		if !ok {
			return nil, fmt.Errorf("sync peer %s: this host has no address of its family on the interface of sync", addr)
		}
		m.peers[addr] = &peer{addr: addr, local: local, since: time.Now(), err: errors.New("not reached yet")}
	}
	return m, nil
}

// local is this host's address towards a peer: peers know the one that the list of
// directors has, and no other.
func (o *Options) local(peer netip.Addr) (netip.Addr, bool) {
	isOfFamily := func(a netip.Addr) bool { return a.Is4() == peer.Is4() }
	isListed := func(a netip.Addr) bool { return isOfFamily(a) && slices.Contains(o.Peers, a) }
	for _, is := range []func(netip.Addr) bool{isListed, isOfFamily} {
		if i := slices.IndexFunc(o.Local, is); i >= 0 {
			return o.Local[i], true
		}
	}
	return netip.Addr{}, false
}

// SetKeys puts other keys into force. Sessions that were made with a key which is
// still one of them go on, others end and are made anew.
func (m *Mesh) SetKeys(keys []Key) error {
	ring, err := newKeyring(keys)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.keys = ring
	m.mu.Unlock()
	for _, p := range m.peers {
		if s := p.current(); s != nil && !ring.accepted[s.proof] {
			s.end(errKeyRemoved)
		}
	}
	return nil
}

func (m *Mesh) keyring() *keyring {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keys
}

// Publish tells all peers of entries that are new or have changed. It does not
// wait: what a slow peer cannot take is made good by another walk over the
// table.
func (m *Mesh) Publish(b *Batch) {
	var frames [protocolNow + 1][]entryFrame // by version: the same bytes for all who speak it
	for _, p := range m.peers {
		s := p.current()
		if s == nil {
			continue
		}
		of := &frames[s.version]
		if *of == nil {
			var err error
			if *of, err = framesOf(b, s.version); err != nil {
				s.end(err)
				continue
			}
		}
		s.publish(*of, len(b.Members))
	}
}

// SetDigests tells all peers what this host's services are like.
func (m *Mesh) SetDigests(digests []Digest) {
	digests = digestsOfFrame(digests)
	m.mu.Lock()
	m.digests = digests
	m.mu.Unlock()
	for _, p := range m.peers {
		if s := p.current(); s != nil {
			s.sendDigests(digests)
		}
	}
}

// InSync reports whether every peer's table has been absorbed whole in the
// session that stands with it. Without a session with some peer it is false:
// how long to wait for a peer that may be gone is the caller's decision.
func (m *Mesh) InSync() bool {
	for _, p := range m.peers {
		if s := p.current(); s == nil || !s.isInSync() {
			return false
		}
	}
	return true
}

// HasSession reports whether some peer may tell of something.
func (m *Mesh) HasSession() bool {
	for _, p := range m.peers {
		if p.current() != nil {
			return true
		}
	}
	return false
}

// Doubt makes [Mesh.InSync] false until every peer has answered behind what it
// had to say: after an outage, what a session has not yet delivered is not known
// here.
func (m *Mesh) Doubt() {
	for _, p := range m.peers {
		if s := p.current(); s != nil {
			s.doubt()
		}
	}
	m.o.Changed()
}

// Flush waits until every peer with a session has absorbed what was published
// before, or ctx ends. Peers without a session are not waited for.
func (m *Mesh) Flush(ctx context.Context) error {
	var g errgroup.Group
	for addr, p := range m.peers {
		if s := p.current(); s != nil {
			g.Go(func() error {
				if err := s.flush(ctx); err != nil {
					return fmt.Errorf("peer %s does not have the latest connections: %w", addr, err)
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// Status reports on every peer, in the order of the configuration.
func (m *Mesh) Status() []PeerStatus {
	m.mu.Lock()
	ours := m.digests
	m.mu.Unlock()
	status := make([]PeerStatus, 0, len(m.o.Peers))
	for _, addr := range m.o.Peers {
		status = append(status, m.peers[addr].status(ours))
	}
	return status
}

// Key names the key that this host signs with.
func (m *Mesh) Key() string { return m.keyring().signer.name() }

// Run keeps the sessions until ctx ends. Of two directors the one with the
// lower address dials, the other listens.
func (m *Mesh) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	listening := map[netip.Addr]bool{}
	for _, p := range m.peers {
		if p.local.Less(p.addr) {
			g.Go(func() error { return m.dial(ctx, p) })
		} else if !listening[p.local] {
			listening[p.local] = true
			g.Go(func() error { return m.listen(ctx, p.local) })
		}
	}
	return g.Wait()
}

// dial makes sessions with p, one after the other.
func (m *Mesh) dial(ctx context.Context, p *peer) error {
	dialer := net.Dialer{Timeout: handshakeTime, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(p.local, 0))}
	for {
		conn, err := dialer.DialContext(ctx, "tcp", netip.AddrPortFrom(p.addr, m.o.Port).String())
		if err != nil {
			m.fail(p, err)
		} else {
			m.serve(ctx, p, tls.Client(conn, m.keyring().tls))
		}
		select {
		case <-time.After(redialPause):
		case <-ctx.Done():
			return nil
		}
	}
}

// listen takes the peers' connections. An address that is not there yet, or a
// port that somebody else has, is no reason to stop: it is tried again.
func (m *Mesh) listen(ctx context.Context, local netip.Addr) error {
	address := netip.AddrPortFrom(local, m.o.Port).String()
	for ctx.Err() == nil {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err == nil {
			err = m.accept(ctx, l)
		}
		for _, p := range m.peers {
			if p.local == local && err != nil && p.current() == nil {
				m.fail(p, err)
			}
		}
		select {
		case <-time.After(redialPause):
		case <-ctx.Done():
		}
	}
	return nil
}

func (m *Mesh) accept(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("listen for sync peers on %s: %w", l.Addr(), err)
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		p := m.peers[from.Addr().Unmap()]
		if err != nil || p == nil || !p.claim() {
			_ = conn.Close() // nobody that we know, or its handshake is under way already
			continue
		}
		sessions.Go(func() { m.serve(ctx, p, tls.Server(conn, m.keyring().tls)) })
	}
}

// serve makes a session of conn and runs it until it ends. A session that
// stood before is replaced: the peer has started anew.
func (m *Mesh) serve(ctx context.Context, p *peer, conn *tls.Conn) {
	version, err := handshake(ctx, conn)
	p.mu.Lock()
	p.isBusy = false
	p.mu.Unlock()
	if err != nil {
		_ = conn.Close()
		m.fail(p, err)
		return
	}
	s := newSession(conn, m.o.Table, p.setDigests, m.o.Changed)
	s.tellNow, s.version = m.o.TellNow, version
	s.proof = proofOfPeer(conn)
	p.begin(s)
	if !m.keyring().accepted[s.proof] { // the key was removed during the handshake
		s.end(errKeyRemoved)
	}
	// After the session can be found: digests that are set now are sent by
	// one of the two.
	m.mu.Lock()
	digests := m.digests
	m.mu.Unlock()
	s.sendDigests(digests)
	m.o.Log.Info("sync session begins", "component", "sync", "peer", p.addr)
	err = s.run(ctx)
	if isEndOfPeer(err) {
		err = errPeerEnded
	}
	if p.end(s, err) && ctx.Err() == nil {
		m.o.Log.Warn("sync session has ended", "component", "sync", "peer", p.addr, "err", err)
	}
	m.o.Changed()
}

// errPeerEnded is why a session is over that the peer has ended, or its host.
var errPeerEnded = errors.New("the peer has ended it")

// errPeerClosed is what one sees whom the peer does not know.
var errPeerClosed = refusal{"the peer closes the connection at once", "is this host's address in its sync.peers, and the key in its key file?"}

// isEndOfPeer reports whether an error is that the other end is gone.
func isEndOfPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// handshake makes sure that the other end holds a key and speaks the session
// protocol.
func handshake(ctx context.Context, conn *tls.Conn) (version uint16, err error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	err = conn.HandshakeContext(ctx)
	if err == nil {
		version, err = greet(conn)
	}
	var of *net.OpError
	switch {
	case err == nil:
		return version, nil
	case isEndOfPeer(err):
		return 0, errPeerClosed
	case errors.Is(err, errUnknownKey), errors.As(err, &of) && of.Op == "remote error":
		return 0, errUnknownKey
	case errors.As(err, &of): // without its ports, which are others each time: see [Mesh.fail]
		err = fmt.Errorf("%s: %w", of.Op, of.Err)
	}
	return 0, fmt.Errorf("handshake: %w", err)
}

// fail notes why there is no session, and logs it when that is news.
func (m *Mesh) fail(p *peer, err error) {
	p.mu.Lock()
	isNews := p.err == nil || p.err.Error() != err.Error()
	p.err = err
	p.mu.Unlock()
	if isNews {
		m.o.Log.Warn("no sync session", "component", "sync", "peer", p.addr, "err", err)
	}
}
