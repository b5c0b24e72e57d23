package failover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/testenv"
)

const hostileID = 51 // the syncid of a pair that is attacked

// attacker sends datagrams to the group of a pair that is not its own.
type attacker struct {
	t    *testing.T
	conn net.PacketConn
	to   *net.UDPAddr
	sent int
}

func (p *pair) newAttacker(t *testing.T, host string) *attacker {
	t.Helper()
	conn, err := p.Host(host).ListenPacket("udp4", Addr(host).String()+":0")
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return &attacker{t: t, conn: conn, to: net.UDPAddrFromAddrPort(netip.AddrPortFrom(connsync.DefaultGroup, connsync.DefaultWirePort))}
}

// send sends datagrams, not all at once: a full receive buffer would spare the
// daemon the work.
func (a *attacker) send(datagrams ...[]byte) {
	a.t.Helper()
	for _, d := range datagrams {
		if _, err := a.conn.WriteTo(d, a.to); err != nil {
			a.t.Fatal(err)
		}
		if a.sent++; a.sent%50 == 0 {
			time.Sleep(ms)
		}
	}
}

// captureWire hears what the master says on the wire from now on: what it returns
// waits until there is something, and gives all datagrams.
func (p *pair) captureWire(t *testing.T) func() [][]byte {
	t.Helper()
	c, err := p.Host("d").Capture("eth0")
	must(t, err)
	const headers = 14 + 20 + 8
	isSaid := func(f testenv.Frame) bool {
		return len(f.Data) > headers && netip.AddrFrom4([4]byte(f.Data[26:30])) == Addr("a") &&
			netip.AddrFrom4([4]byte(f.Data[30:34])) == connsync.DefaultGroup
	}
	return func() (datagrams [][]byte) {
		t.Helper()
		p.await("the master has said something on the wire", func() error {
			frames, err := c.Select(isSaid)
			if err == nil && len(frames) == 0 {
				err = errors.New("nothing yet")
			}
			datagrams = nil
			for _, f := range frames {
				datagrams = append(datagrams, bytes.Clone(f.Data[headers:]))
			}
			return err
		})
		return datagrams
	}
}

// datagramsOf are datagrams with these records.
func datagramsOf(t *testing.T, id uint8, records []connsync.Record) (all [][]byte) {
	t.Helper()
	packer, err := connsync.NewPacker(1, id, connsync.DefaultMaxLen)
	must(t, err)
	for _, r := range records {
		full, err := packer.Add(r)
		must(t, err)
		if full != nil {
			all = append(all, bytes.Clone(full))
		}
	}
	return append(all, bytes.Clone(packer.Flush()))
}

// lies are records of connections with the other real, and of their end.
func lies(conns map[string][]held) (records []connsync.Record) {
	for _, all := range conns {
		for _, h := range all {
			other := Addr("r1")
			if h.who == "r1" {
				other = Addr("r2")
			}
			ends := endsOf(h)
			r := connsync.Record{
				Protocol: connsync.ProtocolTCP, Flags: connsync.ForwardRoute | connsync.FlagNoOutput, State: connsync.StateEstablished,
				Client: ends.client, Virtual: ends.virtual, Real: netip.AddrPortFrom(other, ends.virtual.Port()), Timeout: 900 * time.Second,
			}
			end := r
			end.Real = netip.AddrPortFrom(Addr(h.who), ends.virtual.Port())
			end.State, end.Flags = connsync.StateClose, end.Flags|connsync.FlagInactive
			records = append(records, r, end)
		}
	}
	return records
}

// madeUp are records of connections that nobody has, half of them of a real that
// nobody knows.
func madeUp(n int) (records []connsync.Record) {
	for i := range n {
		r := connsync.Record{
			Protocol: connsync.ProtocolTCP, Flags: connsync.ForwardRoute, State: connsync.StateEstablished, Timeout: 900 * time.Second,
			Client:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), uint16(1024+i>>16)),
			Virtual: netip.AddrPortFrom(VIP, 80), Real: netip.AddrPortFrom(Addr("r1"), 80),
		}
		if i%2 == 1 {
			r.Real = netip.MustParseAddrPort("10.99.9.9:80")
		}
		records = append(records, r)
	}
	return records
}

// anonymous is the memory of a process that no file stands behind, in MiB.
func anonymous(t *testing.T, pid int) (mib int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, _ := strings.Cut(string(b), "RssAnon:")
	_, err = fmt.Sscan(rest, &mib)
	must(t, err)
	return mib / 1024
}

// hammerSessions speaks with the port of sessions as who holds no key: from the
// address of a peer, and from one that is no peer.
func (p *pair) hammerSessions(t *testing.T, from, to string) (refused int) {
	t.Helper()
	long := bytes.Repeat([]byte{22, 3, 1, 0xff, 0xff}, 1<<14)
	for n := range 60 {
		conn, err := p.Host(from).Dial(t.Context(), "tcp", netip.AddrPortFrom(Addr(to), connsync.DefaultPort).String())
		if err != nil {
			refused++
			continue
		}
		frame := binary.BigEndian.AppendUint32(nil, 2<<24|1<<20+1) // of entries, beyond the longest
		_, _ = conn.Write([][]byte{long, frame, long[:7], {}}[n%4])
		_ = conn.SetReadDeadline(time.Now().Add(50 * ms))
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	return refused
}

// Forged, replayed, truncated, oversized and flooding datagrams, and sessions
// without a key, harm no connection of a living pair: the backup still has what
// its peer told of, its memory is bounded, what came is counted, and warned of
// once.
func TestHostileSync(t *testing.T) {
	t.Parallel()
	body := strings.Replace(syncedBody(t), "sync: {", fmt.Sprintf("sync: {syncid: %d, ", hostileID), 1)
	p := newRealPair(t, v3tenth, body)
	p.awaitSync()
	wire := p.captureWire(t)
	conns := p.holdAll()
	p.await("b has been told", func() error {
		known := knownConns{}
		err := p.addKnown(known, "b", true)
		for name, all := range conns {
			if n := countUntold(all, known); n > 0 {
				return fmt.Errorf("not of %d of %s: %v", n, name, err)
			}
		}
		return err
	})
	before := anonymous(t, p.b.Pid())
	x := p.newAttacker(t, "d")
	rnd := rand.New(rand.NewPCG(1, 2))

	forged := datagramsOf(t, hostileID, lies(conns))
	flood := datagramsOf(t, hostileID, madeUp(shareOf(1_000_000)))
	x.send(forged...)
	x.send(datagramsOf(t, hostileID+1, lies(conns))...) // of another pair
	for range 2000 {
		d := bytes.Clone(forged[rnd.IntN(len(forged))])
		x.send(d[:rnd.IntN(len(d))])                                   // truncated
		d[rnd.IntN(len(d))] ^= byte(1 + rnd.IntN(255))                 // changed
		x.send(d, append(d, make([]byte, rnd.IntN(60_000-len(d)))...)) // oversized
	}
	x.send(flood...)
	genuine := wire() // all that the master has said
	for range 3 {
		x.send(forged...)
		x.send(genuine...)
	}
	refused := p.hammerSessions(t, "a", "b") + p.hammerSessions(t, "d", "b")
	after := anonymous(t, p.b.Pid())
	st := p.wireStatus("b")
	t.Logf("%d datagrams, %d genuine ones three times among them; b: %+v; %d connections refused; RssAnon %d MiB, then %d", x.sent, len(genuine), st, refused, before, after)
	if st.Malformed == 0 || st.Foreign == 0 || st.Rejected == 0 {
		t.Errorf("not everything is counted: %+v", st)
	}
	const room = 128
	if after > before+room {
		t.Errorf("b takes %d MiB more than before, want %d at most", after-before, room)
	}
	p.await("b has warned", func() error { return says(p.b, "datagrams come that kernel IPVS does not send") })
	for _, warning := range []string{"datagrams come that kernel IPVS does not send", "datagrams of another syncid come"} {
		if n := strings.Count(p.b.Output(), `msg="`+warning); n != 1 {
			t.Errorf("b has warned %d times: %s", n, warning)
		}
	}

	p.awaitSync()
	p.a.Kill()
	p.await("b is master", func() error { return p.hasVIP("b") })
	p.checkAlive("behind the attack and kill -9", conns)
	if n := aliveMany(p.hold(80)); n != connections {
		t.Errorf("%d of %d new connections live", n, connections)
	}
}
