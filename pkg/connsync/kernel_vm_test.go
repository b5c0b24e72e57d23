//go:build ipvsvm

package connsync

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/testenv"
)

// director is a director that runs kernel IPVS: d1 of the standard network.
type director struct {
	*testenv.Host
	t *testing.T
}

// vips are the VIPs of the director, one of each family.
var vips = []netip.Addr{netip.MustParseAddr("172.25.0.100"), netip.MustParseAddr("fd25::100")}

const syncID = 51

func newDirector(t *testing.T) (*testenv.Cluster, director) {
	t.Helper()
	c, err := testenv.New(testenv.Standard(testenv.Shape{}))
	must(t, err)
	t.Cleanup(func() { must(t, c.Close()) })
	d := director{c.Host("d1"), t}
	for _, name := range []string{"client", "d1", "r1", "r2"} {
		h := c.Host(name)
		for _, nic := range []string{"lo", "eth0"} {
			must(t, h.Sysctl("net.ipv6.conf."+nic+".disable_ipv6", "0"))
		}
		must(t, h.AddAddr("eth0", netip.PrefixFrom(addrOf(h, vips[1]), 64)))
	}
	for _, vip := range vips {
		must(t, d.AddAddr("eth0", netip.PrefixFrom(vip, vip.BitLen())))
		d.ipvsadm("-A", "-t", netip.AddrPortFrom(vip, 80).String(), "-s", "rr")
		d.ipvsadm("-A", "-t", netip.AddrPortFrom(vip, 81).String(), "-s", "rr", "-p", "300")
	}
	for _, name := range []string{"r1", "r2"} {
		r := c.Host(name)
		for _, key := range []string{"all", "eth0"} {
			must(t, r.Sysctl("net.ipv4.conf."+key+".arp_ignore", "1"))
			must(t, r.Sysctl("net.ipv4.conf."+key+".arp_announce", "2"))
		}
		_, err := r.ServeWeb(":80", ":81")
		must(t, err)
		for _, vip := range vips {
			must(t, r.AddAddr("lo", netip.PrefixFrom(vip, vip.BitLen())))
			for _, port := range []uint16{80, 81} {
				d.ipvsadm("-a", "-t", netip.AddrPortFrom(vip, port).String(), "-r", netip.AddrPortFrom(addrOf(r, vip), port).String(), "-g")
			}
		}
	}
	return c, d
}

// addrOf is the address of a host in the family of a VIP: the last number of that
// of IPv6 is written as IPv4's.
func addrOf(h *testenv.Host, vip netip.Addr) netip.Addr {
	if vip.Is4() {
		return h.Addr("eth0")
	}
	return netip.MustParseAddr(fmt.Sprint("fd25::", h.Addr("eth0").As4()[3]))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (d director) ipvsadm(args ...string) string {
	d.t.Helper()
	out, err := d.Run(d.t.Context(), append([]string{"ipvsadm"}, args...)...)
	must(d.t, err)
	return out
}

// connections are what the kernel lists.
func (d director) connections() []Listed {
	d.t.Helper()
	out, err := d.Run(d.t.Context(), "cat", "/proc/net/ip_vs_conn")
	must(d.t, err)
	listed, skipped, err := ReadProc(strings.NewReader(out))
	if err != nil || skipped != 0 {
		d.t.Fatalf("%d skipped, %v:\n%s", skipped, err, out)
	}
	return listed
}

// reals are the real servers of records, by client, address and state.
func reals(records []Record) map[string]string {
	out := map[string]string{}
	for _, r := range records {
		out[fmt.Sprint(r.Protocol, r.Client, r.Virtual, r.IsTemplate())] = fmt.Sprint(r.Real)
	}
	return out
}

// What a kernel sends as master is what it lists: connections and templates,
// with their reals, states and timeouts.
func TestKernelMasterIsUnderstood(t *testing.T) {
	c, d := newDirector(t)
	// Every packet tells of its connection.
	must(t, d.Sysctl("net.ipv4.vs.sync_threshold", "0 1"))
	d.ipvsadm("--start-daemon", "master", "--mcast-interface", "eth0", "--syncid", fmt.Sprint(syncID))
	var h heard
	speakOn(t, c.Host("d2"), WireOptions{SyncID: syncID, Absorb: h.absorb}).SetRole(false, true)
	time.Sleep(time.Second) // it joins the group

	for i := range 40 {
		to := netip.AddrPortFrom(vips[i/20], uint16(80+i%2))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := c.Host("client").Dial(ctx, "tcp", to.String())
		must(t, err)
		defer conn.Close()
		cancel()
		for range 3 {
			_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: vip\r\n\r\n")
			must(t, err)
			_, err = conn.Read(make([]byte, 4096))
			must(t, err)
		}
	}
	var want map[string]string
	eventually(t, "everything that the kernel lists was heard", func() bool {
		var listed []Record
		for _, l := range d.connections() {
			listed = append(listed, l.Record)
		}
		want = reals(listed)
		return len(want) == 42 && maps.Equal(want, reals(h.all()))
	})
	for _, r := range h.all() {
		switch {
		case r.IsTemplate() && (r.Timeout != 300*time.Second || r.Client.Port() != 0):
			t.Errorf("template %+v", r)
		case !r.IsTemplate() && (r.State != StateEstablished || r.Timeout != 900*time.Second || r.Flags&ForwardMask != ForwardRoute):
			t.Errorf("connection %+v", r)
		}
	}
}

// What lvx sends a kernel takes in full, states and timeouts too, in both
// versions.
func TestKernelBackupUnderstands(t *testing.T) {
	for _, version0 := range []bool{false, true} {
		t.Run(fmt.Sprintf("version 0 %t", version0), func(t *testing.T) {
			c, d := newDirector(t)
			d.ipvsadm("--start-daemon", "backup", "--mcast-interface", "eth0", "--syncid", fmt.Sprint(syncID))
			w := speakOn(t, c.Host("d2"), WireOptions{SyncID: syncID, Version0: version0, Absorb: new(heard).absorb})
			w.SetRole(true, false)
			families := vips
			if version0 {
				families = vips[:1] // it carries no others
			}
			var records []Record
			states := []struct {
				state   State
				timeout time.Duration
				flags   Flags
			}{{StateEstablished, 900 * time.Second, active}, {StateFinWait, 120 * time.Second, inactive}, {StateTimeWait, 120 * time.Second, inactive}}
			for _, vip := range families {
				client := netip.MustParseAddr("10.1.0.0")
				if vip.Is6() {
					client = netip.MustParseAddr("2001:db8::1:0")
				}
				for i := range 90 {
					s := states[i%3]
					records = append(records, Record{
						Protocol: ProtocolTCP, Flags: s.flags, State: s.state, Timeout: s.timeout,
						Client:  netip.AddrPortFrom(client, uint16(1000+i)),
						Virtual: netip.AddrPortFrom(vip, 80),
						Real:    netip.AddrPortFrom(addrOf(c.Host([]string{"r1", "r2"}[i%2]), vip), 80),
					})
					client = client.Next()
				}
				records = append(records, Record{
					Protocol: ProtocolTCP, Flags: template, State: StateAssured, Timeout: 300 * time.Second,
					Client: netip.AddrPortFrom(client, 0), Virtual: netip.AddrPortFrom(vip, 81),
					Real: netip.AddrPortFrom(addrOf(c.Host("r2"), vip), 81),
				})
			}
			time.Sleep(time.Second) // the kernel joins the group
			w.Publish(records)
			want := reals(records)
			eventually(t, "the kernel lists everything", func() bool {
				var listed []Record
				for _, l := range d.connections() {
					listed = append(listed, l.Record)
				}
				return maps.Equal(want, reals(listed))
			})
			for _, l := range d.connections() {
				i := slices.IndexFunc(records, func(r Record) bool { return r.Client == l.Client && r.Virtual == l.Virtual })
				r := records[i]
				if l.State != r.State && !r.IsTemplate() {
					t.Errorf("%s is listed in state %d, sent in %d", l.Client, l.State, r.State)
				}
				if r.Timeout-l.Left > 30*time.Second && !(version0 && r.IsTemplate()) {
					t.Errorf("%s is listed with %s left, sent with %s", l.Client, l.Left, r.Timeout)
				}
			}
		})
	}
}
