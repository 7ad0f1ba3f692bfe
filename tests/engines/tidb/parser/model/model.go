package model

import "github.com/pingcap/tidb/pkg/parser/ast"

const AllColumns = ast.AllColumns

type CIStr = ast.CIStr
type ColumnChoice = ast.ColumnChoice

const ColumnList = ast.ColumnList
const DefaultChoice = ast.DefaultChoice

type IndexType = ast.IndexType

const IndexTypeBtree = ast.IndexTypeBtree
const IndexTypeHNSW = ast.IndexTypeHNSW
const IndexTypeHypo = ast.IndexTypeHypo
const IndexTypeInvalid = ast.IndexTypeInvalid
const MediumPriorityValue = ast.MediumPriorityValue

var NewCIStr = ast.NewCIStr

type PartitionType = ast.PartitionType

const PartitionTypeHash = ast.PartitionTypeHash
const PartitionTypeKey = ast.PartitionTypeKey
const PartitionTypeList = ast.PartitionTypeList
const PartitionTypeNone = ast.PartitionTypeNone
const PartitionTypeRange = ast.PartitionTypeRange
const PredicateColumns = ast.PredicateColumns
const PrimaryKeyTypeClustered = ast.PrimaryKeyTypeClustered
const PrimaryKeyTypeDefault = ast.PrimaryKeyTypeDefault

var PriorityValueToName = ast.PriorityValueToName

const ReferOptionCascade = ast.ReferOptionCascade
const ReferOptionNoOption = ast.ReferOptionNoOption
const ReferOptionRestrict = ast.ReferOptionRestrict
const ReferOptionSetDefault = ast.ReferOptionSetDefault
const ReferOptionSetNull = ast.ReferOptionSetNull

type ReferOptionType = ast.ReferOptionType

const RunawayAction = ast.RunawayAction
const RunawayActionCooldown = ast.RunawayActionCooldown
const RunawayActionDryRun = ast.RunawayActionDryRun
const RunawayActionKill = ast.RunawayActionKill
const RunawayActionNone = ast.RunawayActionNone
const RunawayActionSwitchGroup = ast.RunawayActionSwitchGroup

type RunawayActionType = ast.RunawayActionType

const RunawayRule = ast.RunawayRule
const RunawayWatch = ast.RunawayWatch

type RunawayWatchType = ast.RunawayWatchType

const SecurityDefiner = ast.SecurityDefiner
const TableLockNone = ast.TableLockNone
const TableLockRead = ast.TableLockRead
const TableLockReadOnly = ast.TableLockReadOnly

type TableLockType = ast.TableLockType

const TableLockWrite = ast.TableLockWrite
const TableLockWriteLocal = ast.TableLockWriteLocal

type ViewAlgorithm = ast.ViewAlgorithm
type ViewCheckOption = ast.ViewCheckOption
type ViewSecurity = ast.ViewSecurity

const WatchExact = ast.WatchExact
const WatchNone = ast.WatchNone
const WatchPlan = ast.WatchPlan
const WatchSimilar = ast.WatchSimilar
