// A TiDB server in one process, with its storage in the process too, for the tests.
//
// It works like tidb-server with `-store unistore`, without a cluster, a status port and statistics.
// It prints "ready" when it accepts connections, and ends on SIGTERM.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/pingcap/tidb/pkg/config"
	"github.com/pingcap/tidb/pkg/ddl"
	"github.com/pingcap/tidb/pkg/domain"
	"github.com/pingcap/tidb/pkg/executor"
	"github.com/pingcap/tidb/pkg/extension"
	"github.com/pingcap/tidb/pkg/kv"
	"github.com/pingcap/tidb/pkg/parser/mysql"
	plannercore "github.com/pingcap/tidb/pkg/planner/core"
	"github.com/pingcap/tidb/pkg/resourcemanager"
	"github.com/pingcap/tidb/pkg/server"
	"github.com/pingcap/tidb/pkg/session"
	"github.com/pingcap/tidb/pkg/sessionctx/variable"
	kvstore "github.com/pingcap/tidb/pkg/store"
	"github.com/pingcap/tidb/pkg/store/copr"
	"github.com/pingcap/tidb/pkg/store/mockstore"
	"github.com/pingcap/tidb/pkg/util"
	"github.com/pingcap/tidb/pkg/util/logutil"
	"github.com/pingcap/tidb/pkg/util/memory"
	"github.com/pingcap/tidb/pkg/util/metricsutil"
)

// The release of the commit in go.mod, and the answer of VERSION().
const (
	release = "v8.5.6"
	version = "8.0.11-TiDB-" + release
)

const store = "unistore"

// The longest wait for the port, and for clients at the end.
const (
	startTimeout = time.Minute
	drainTimeout = time.Second
)

func main() {
	port := flag.Uint("port", 4000, "port on 127.0.0.1")
	data := flag.String("data", "", "folder of the data; without it, the data stay in memory")
	temp := flag.String("temp", os.TempDir(), "folder of temporary files")
	level := flag.String("log-level", "error", "debug, info, warn or error; to standard output")
	flag.Parse()

	if err := run(*port, *data, *temp, *level); err != nil {
		fmt.Fprintln(os.Stderr, "tidb:", err)
		os.Exit(1)
	}
}

func run(port uint, data, temp, level string) error {
	configure(port, data, temp, level)
	cfg := config.GetGlobalConfig()
	if err := logutil.InitLogger(cfg.Log.ToLogConfig()); err != nil {
		return err
	}
	if err := metricsutil.RegisterMetrics(); err != nil {
		return err
	}
	memory.InitMemoryHook()
	util.InternalHTTPClient()
	if err := extension.Setup(); err != nil {
		return err
	}
	executor.Start()
	defer executor.Stop()
	resourcemanager.InstanceResourceManager.Start()
	defer resourcemanager.InstanceResourceManager.Stop()

	storage, dom, err := open(data)
	if err != nil {
		return err
	}
	defer func() {
		dom.Close()
		ddl.CloseOwnerManager()
		_ = storage.Close()
	}()
	svr, err := server.NewServer(cfg, server.NewTiDBDriver(storage))
	if err != nil {
		return err
	}
	svr.SetDomain(dom)
	// Ends statements that exceed their time limits.
	go dom.ExpensiveQueryHandle().SetSessionManager(svr).Run()
	dom.InfoSyncer().SetSessionManager(svr)

	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	ended := make(chan error, 1)
	go func() { ended <- svr.Run(dom) }()
	go announce(port)
	select {
	case <-stop:
		svr.Close()
		svr.DrainClients(drainTimeout, drainTimeout)
		return nil
	case err := <-ended:
		return err
	}
}

func configure(port uint, data, temp, level string) {
	cfg := config.NewConfig()
	cfg.Host = "127.0.0.1"
	cfg.AdvertiseAddress = "127.0.0.1"
	cfg.Port = port
	cfg.Socket = ""
	cfg.Store = store
	cfg.Path = data
	cfg.TempDir = temp
	cfg.TempStoragePath = temp
	cfg.TempStorageQuota = -1
	cfg.ServerVersion = version
	cfg.Status.ReportStatus = false
	cfg.Log.Level = level
	cfg.Instance.EnableSlowLog.Store(false)
	// The storage has one region. Splitting it would cost a second for each table.
	cfg.SplitTable = false
	config.StoreGlobalConfig(cfg)

	mysql.TiDBReleaseVersion = release
	mysql.ServerVersion = version
	variable.SetSysVar(variable.Version, version)
	variable.SetSysVar(variable.Port, strconv.FormatUint(uint64(port), 10))
	variable.SetSysVar(variable.DataDir, data)
	// Small tables need no statistics, and the statistics jobs cost CPU time.
	session.SetStatsLease(0)
	session.SetSchemaLease(config.DefSchemaLease)
	kv.TxnTotalSizeLimit.Store(config.SuperLargeTxnSize)
	plannercore.AllowCartesianProduct.Store(true)
	executor.GlobalMemoryUsageTracker.SetBytesLimit(-1)
}

func open(data string) (kv.Storage, *domain.Domain, error) {
	if err := kvstore.Register(store, mockstore.EmbedUnistoreDriver{}); err != nil {
		return nil, nil, err
	}
	storage, err := kvstore.New(fmt.Sprintf("%s://%s", store, data))
	if err != nil {
		return nil, nil, err
	}
	copr.GlobalMPPFailedStoreProber.Run()
	if err := ddl.StartOwnerManager(context.Background(), storage); err != nil {
		return nil, nil, err
	}
	dom, err := session.BootstrapSession(storage)
	return storage, dom, err
}

// announce prints "ready" when the port accepts connections.
func announce(port uint) {
	address := net.JoinHostPort("127.0.0.1", strconv.FormatUint(uint64(port), 10))
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if connection, err := net.Dial("tcp", address); err == nil {
			_ = connection.Close()
			fmt.Println("ready")
			return
		}
	}
}
