package admin

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lvx-lb/lvx/pkg/connsync"
	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/guard"
	"github.com/lvx-lb/lvx/pkg/lb"
)

// scrapeTimeout bounds what one scrape may ask of the director.
const scrapeTimeout = 5 * time.Second

// collector turns the director's answers into metrics at scrape time; it
// keeps nothing.
type collector struct {
	director Director
	hasReals bool // series for each real
}

// metric is one metric; its name, kind and labels are part of the interface.
type metric struct {
	*prometheus.Desc
	name, help string
	labels     []string
	kind       prometheus.ValueType
}

// all are the metrics, in the order in which they are documented.
var all []*metric

func gauge(name, help string, labels ...string) *metric {
	return describe(prometheus.GaugeValue, name, help, labels)
}

func counter(name, help string, labels ...string) *metric {
	return describe(prometheus.CounterValue, name, help, labels)
}

func describe(kind prometheus.ValueType, name, help string, labels []string) *metric {
	m := &metric{prometheus.NewDesc("lvx_"+name, help, labels, nil), "lvx_" + name, help, labels, kind}
	all = append(all, m)
	return m
}

// The metrics of the daemon.
var (
	buildInfo    = gauge("build_info", "Always 1; the version as a label.", "version")
	dataPathInfo = gauge("data_path_info", "Always 1; backend and mode as labels.", "backend", "mode")
	started      = gauge("start_timestamp_seconds", "When the daemon started, in seconds since 1970.")
	failing      = gauge("apply_failing", "1 while the kernel does not hold what was planned.")
	failures     = counter("apply_failures_total", "Failed attempts to put the plan into the kernel.")
	reloadOK     = gauge("last_reload_successful", "0 if the last reload was refused.")
	reloadAt     = gauge("last_reload_timestamp_seconds", "When the configuration was read last, in seconds since 1970.")
	warning      = gauge("warning", "1 while something is wrong, in the words of lvx status.", "kind", "subject", "text")
	runtimeEdits = gauge("runtime_changes", "Services that ipvsadm has added, changed or removed beside the file.")
	messages     = counter("notifications_total", "Messages of notify, by what became of them: delivered, failed, dropped.", "result")
)

// The metrics of services.
var (
	serviceUp      = gauge("service_up", "1 while a real server of the service takes connections; the sorry server is none.", "service")
	serviceSorry   = gauge("service_sorry", "1 while the sorry server answers.", "service")
	serviceQuorum  = gauge("service_quorum", "1 while enough weight is up.", "service")
	serviceConns   = counter("service_connections_total", "Connections scheduled.", "service")
	servicePackets = counter("service_packets_total", "Packets from clients.", "service")
	serviceBytes   = counter("service_bytes_total", "Bytes from clients, IP length.", "service")
)

// The metrics of real servers; `real_metrics: false` leaves them out.
var (
	realUp        = gauge("real_up", "1 while the checks of the real server pass.", "service", "real")
	realDrained   = gauge("real_drained", "1 while an operator drains it.", "service", "real")
	realWeight    = gauge("real_weight", "Weight while it is up.", "service", "real")
	realCheckTook = gauge("real_check_duration_seconds", "How long the slowest of its last checks took.", "service", "real")
	realConns     = counter("real_connections_total", "Connections scheduled.", "service", "real")
	realPackets   = counter("real_packets_total", "Packets from clients.", "service", "real")
	realBytes     = counter("real_bytes_total", "Bytes from clients, IP length.", "service", "real")
	realActive    = gauge("real_active_connections", "Connections in SYN_RECV or ESTABLISHED.", "service", "real")
	realInactive  = gauge("real_inactive_connections", "Other connections.", "service", "real")
	realTemplates = gauge("real_templates", "Persistence templates: clients that are bound to it.", "service", "real")
)

// The metrics of the packet path.
var (
	packets       = counter("packets_total", "Packets by what the packet path decided.", "verdict")
	tableCapacity = gauge("table_capacity", "Entries that are guaranteed a place.", "table")
	tableEntries  = gauge("table_entries", "Entries in use.", "table")
	tableEvicted  = counter("table_evicted_total", "Entries given up for new ones, by what they were.", "table", "kind")
	framesLost    = counter("frames_lost_total", "Frames that XDP sent and that the kernel says were lost, by the interface they came in by.", "interface", "why")
	driverErrors  = counter("driver_errors_total", "What an interface's driver counts of XDP's frames that it did not send (ethtool -S).", "interface", "counter")
)

// The metrics of VIPs and virtual routers.
var (
	vipHeld      = gauge("vip_held", "1 while this host serves the VIP.", "vip")
	vrrpRole     = gauge("vrrp_role", "1 for the role that the instance has.", "vrrp", "role")
	vrrpChanges  = counter("vrrp_role_changes_total", "Changes of the role.", "vrrp")
	vrrpSince    = gauge("vrrp_role_timestamp_seconds", "When the instance took its role, in seconds since 1970.", "vrrp")
	vrrpPriority = gauge("vrrp_priority", "Effective priority.", "vrrp")
	vrrpPeerSeen = gauge("vrrp_peer_last_advert_timestamp_seconds", "When a peer's last accepted advertisement came, in seconds since 1970.", "vrrp", "peer")
	vrrpRejected = counter("vrrp_adverts_rejected_total", "Rejected advertisements by reason.", "vrrp", "reason")
)

// The metrics of connection sync. The peer "kernel" stands for all directors
// that run kernel IPVS.
var (
	syncInStep   = gauge("sync_in_step", "1 while a peer's connections have been absorbed whole in the session that stands.", "peer")
	syncLag      = gauge("sync_lag_seconds", "99th percentile of the time until a peer acknowledged.", "peer")
	syncSent     = counter("sync_sent_total", "Connections and templates told to a peer.", "peer")
	syncReceived = counter("sync_received_total", "Connections and templates that a peer told of.", "peer")
	syncRejected = counter("sync_rejected_total", "Of those, the ones that were not taken.", "peer")
)

func (m scrape) sync(st *connsync.Status) {
	if st == nil {
		return
	}
	for _, p := range st.Peers {
		peer := p.Peer.String()
		m.set(syncInStep, flag(p.IsInSync), peer)
		m.set(syncLag, p.Lag.Seconds(), peer)
		m.set(syncSent, float64(p.Sent), peer)
		m.set(syncReceived, float64(p.Received), peer)
		m.set(syncRejected, float64(p.Rejected), peer)
	}
	var sent, received, rejected uint64
	wires := st.Wires()
	for _, w := range wires {
		sent, received, rejected = sent+w.Sent, received+w.Received, rejected+w.Rejected+w.Dropped
	}
	if len(wires) > 0 {
		m.set(syncSent, float64(sent), "kernel")
		m.set(syncReceived, float64(received), "kernel")
		m.set(syncRejected, float64(rejected), "kernel")
	}
}

// metrics answers with every metric of the daemon.
func (s *Server) metrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(
		collector{s.opt.Director, !s.opt.OmitRealMetrics},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 2 * scrapeTimeout})
}

// Describe sends nothing: the labels are not known before a scrape.
func (c collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector]. A director that does not answer
// fails the scrape: Prometheus' own `up` is 0 then.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	m := scrape{ch, c.hasReals}
	st, err := c.director.Status(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(buildInfo.Desc, fmt.Errorf("status: %w", err))
		return
	}
	m.daemon(st)
	for _, s := range st.Services {
		m.service(s)
	}
	m.losses(st.Losses)
	m.vrrp(st)
	m.bgp(st)
	m.bfd(st)
	l, err := c.director.List(ctx, director.Want{})
	if err != nil {
		ch <- prometheus.NewInvalidMetric(packets.Desc, fmt.Errorf("counters: %w", err))
		return
	}
	m.counters(l.Stats)
}

// scrape is where the metrics of one scrape go.
type scrape struct {
	to       chan<- prometheus.Metric
	hasReals bool // series for each real
}

func (m scrape) set(what *metric, v float64, labels ...string) {
	for i := range labels {
		labels[i] = guard.Text(labels[i])
	}
	m.to <- prometheus.MustNewConstMetric(what.Desc, what.kind, v, labels...)
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func timestamp(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (m scrape) daemon(st director.Status) {
	m.set(buildInfo, 1, st.Version)
	m.set(dataPathInfo, 1, st.Backend, st.Mode)
	m.set(started, timestamp(st.Started))
	m.sync(st.Sync)
	m.set(failing, flag(st.Fault != ""))
	m.set(failures, float64(st.Faults))
	m.set(reloadOK, flag(st.Reload.Error == ""))
	m.set(reloadAt, timestamp(st.Reload.At))
	m.set(runtimeEdits, float64(st.Edits))
	m.set(messages, float64(st.Messages.Delivered), "delivered")
	m.set(messages, float64(st.Messages.Failed), "failed")
	m.set(messages, float64(st.Messages.Dropped), "dropped")
	seen := map[[3]string]bool{} // a series twice would spoil the whole scrape
	for _, w := range st.Warnings {
		labels := [3]string{w.Kind, guard.Text(w.Subject), guard.Text(w.Text)}
		if !seen[labels] {
			seen[labels] = true
			m.set(warning, 1, labels[:]...)
		}
	}
}

func (m scrape) service(s director.ServiceStatus) {
	m.set(serviceUp, flag(s.State == "up"), s.Name)
	m.set(serviceSorry, flag(s.State == "sorry"), s.Name)
	m.set(serviceQuorum, flag(s.Quorum), s.Name)
	if !m.hasReals {
		return
	}
	for _, r := range s.Reals {
		name := director.RealName(netip.AddrPortFrom(r.Addr, r.Port))
		m.set(realUp, flag(r.State != "down"), s.Name, name)
		m.set(realDrained, flag(r.Override == "drain"), s.Name, name)
		m.set(realWeight, float64(r.Weight), s.Name, name)
		if r.Checks > 0 {
			m.set(realCheckTook, r.CheckTook, s.Name, name)
		}
	}
}

func (m scrape) losses(all []director.Loss) {
	for _, l := range all {
		if l.IsDrivers {
			m.set(driverErrors, float64(l.Frames), l.Interface, l.Counter)
		} else {
			m.set(framesLost, float64(l.Frames), l.Interface, l.Counter)
		}
	}
}

func (m scrape) vrrp(st director.Status) {
	for _, v := range st.VIPs {
		m.set(vipHeld, flag(v.Held), v.Addr.String())
	}
	for _, v := range st.VRRP {
		for _, role := range []string{"INIT", "BACKUP", "MASTER", "FAULT"} {
			m.set(vrrpRole, flag(v.Role == role), v.Instance, role)
		}
		m.set(vrrpChanges, float64(v.Changes), v.Instance)
		m.set(vrrpSince, timestamp(v.Since), v.Instance)
		m.set(vrrpPriority, float64(v.Priority), v.Instance)
		for _, p := range v.Peers {
			m.set(vrrpPeerSeen, timestamp(p.Seen), v.Instance, p.Addr.String())
		}
		for reason, n := range v.Dropped {
			m.set(vrrpRejected, float64(n), v.Instance, reason)
		}
	}
}

func (m scrape) counters(st lb.Stats) {
	for _, s := range st.Services {
		m.set(serviceConns, float64(s.Conns), s.Name)
		m.set(servicePackets, float64(s.InPkts), s.Name)
		m.set(serviceBytes, float64(s.InBytes), s.Name)
		if !m.hasReals {
			continue
		}
		for _, r := range s.Reals {
			name := director.RealName(netip.AddrPortFrom(r.Addr, r.Port))
			m.set(realConns, float64(r.Conns), s.Name, name)
			m.set(realPackets, float64(r.InPkts), s.Name, name)
			m.set(realBytes, float64(r.InBytes), s.Name, name)
			m.set(realActive, float64(r.Active), s.Name, name)
			m.set(realInactive, float64(r.Inactive), s.Name, name)
			m.set(realTemplates, float64(r.Persist), s.Name, name)
		}
	}
	for _, v := range st.Verdicts {
		m.set(packets, float64(v.Count), v.Name)
	}
	m.table("flows", st.Flows)
	m.table("templates", st.Template)
}

func (m scrape) table(name string, t lb.TableStats) {
	m.set(tableCapacity, float64(t.Capacity), name)
	m.set(tableEntries, float64(t.Used), name)
	for kind, n := range t.Evicted {
		m.set(tableEvicted, float64(n), name, kind)
	}
}
